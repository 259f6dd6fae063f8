// Fuzzes the safetensors header: any bytes are refused as a damaged model, or parsed into tensors that tile the data.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  try {
    const SafetensorsHeader header = parse_safetensors_header(std::as_bytes(std::span(data, size)), size, "fuzz");
    size_t covered_bytes = 0;
    for (const auto& [name, info] : header.tensors) {
      if (info.begin > info.end || info.end > size - header.data_begin) std::abort();
      const size_t bytes = info.end - info.begin;
      if (info.dtype() && static_cast<size_t>(info.elements()) * size_bytes(*info.dtype()) != bytes) std::abort();
      if (info.shape() && info.shape()->elements() != info.elements()) std::abort();
      covered_bytes += bytes;
    }
    if (covered_bytes != size - header.data_begin) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) std::abort();
  }
  return 0;
}
