// Owns the hashing of the adapters that a request names, which records have. Front ends call it before they draw.
#pragma once

#include <vector>

#include "pipeline/adapters.h"
#include "pipeline/request.h"

namespace nostos {

/// Gives each adapter without a hash that of its file. \throws Error naming a file that cannot be read
void hash_adapters(std::vector<AdapterUse>& adapters, FileHashes& hashes);

}  // namespace nostos
