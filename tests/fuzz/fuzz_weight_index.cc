// Fuzzes the index of a sharded checkpoint: any bytes are refused as a damaged model, or name files of its own folder.
#include <cstdint>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "io/weight_store.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  try {
    const JsonConfig index = JsonConfig::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
    for (const auto& [tensor, shard] : read_weight_map(index)) {
      const std::filesystem::path path = shard;
      if (path.is_absolute() || path.has_parent_path() || path.extension() != ".safetensors") std::abort();
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) std::abort();
  }
  return 0;
}
