// Fuzzes the GGUF header: any bytes are refused as a damaged model, or parsed into tensors that lie in the data apart
// from one another, and into arrays whose elements can be read.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/gguf.h"
#include "tensor/weight_format.h"

namespace {

void check_tensors(const nostos::GgufHeader& header, size_t data_bytes) {
  std::vector<std::pair<size_t, size_t>> places;
  for (const auto& [name, info] : header.tensors) {
    if (name.empty() || info.begin > info.end || info.end > data_bytes) std::abort();
    const auto elements = static_cast<size_t>(info.elements());
    const size_t bytes = info.end - info.begin;
    if (info.dtype() && elements * size_bytes(*info.dtype()) != bytes) std::abort();
    if (const auto type = nostos::parse_stored_type(info.dtype_name)) {
      if (elements / static_cast<size_t>(block_elements(*type)) * block_bytes(*type) != bytes) std::abort();
    }
    if (bytes > 0) places.emplace_back(info.begin, info.end);
  }
  std::sort(places.begin(), places.end());
  for (size_t i = 1; i < places.size(); ++i) {
    if (places[i - 1].second > places[i].first) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  try {
    const GgufHeader header = parse_gguf_header(std::as_bytes(std::span(data, size)), size, "fuzz");
    check_tensors(header, size - header.data_begin);
    for (const auto& [key, array] : header.arrays) {
      const auto strings = array.strings();
      const auto integers = array.integers();
      if (strings && strings->size() != array.count) std::abort();
      if (integers && integers->size() != array.count) std::abort();
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) std::abort();
  }
  return 0;
}
