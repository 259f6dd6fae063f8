// Implements the hashing of adapters.
#include "api/adapter_hashes.h"

namespace nostos {

void hash_adapters(std::vector<AdapterUse>& adapters, FileHashes& hashes) {
  for (AdapterUse& use : adapters)
    if (use.sha256.empty()) use.sha256 = hashes.of(use.file);
}

}  // namespace nostos
