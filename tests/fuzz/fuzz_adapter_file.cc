// Fuzzes whole adapter files: any bytes are refused as a damaged model, or give updates that lie inside their targets
// and can be merged.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "adapters/adapter.h"
#include "adapters/memory_file.h"
#include "adapters/merge.h"
#include "base/error.h"
#include "io/safetensors.h"
#include "models/flux2/file_layouts.h"
#include "models/zimage/file_layouts.h"

namespace {

using namespace nostos;

/// Shapes of the tiny models of the tests, so that their adapters are inputs to start from.
const std::map<std::string, Shape>& zimage_shapes() {
  static const std::map<std::string, Shape> shapes{
      {"layers.0.attention.to_q.weight", {40, 40}}, {"layers.0.attention.to_k.weight", {40, 40}},
      {"layers.0.attention.to_v.weight", {40, 40}}, {"layers.0.attention.to_out.0.weight", {40, 40}},
      {"layers.0.attention_norm1.weight", {40}},    {"layers.0.adaLN_modulation.0.weight", {160, 40}},
      {"layers.0.adaLN_modulation.0.bias", {160}}};
  return shapes;
}

const std::map<std::string, Shape>& flux2_shapes() {
  static const std::map<std::string, Shape> shapes{{"transformer_blocks.0.attn.to_q.weight", {48, 48}},
                                                   {"transformer_blocks.0.attn.to_k.weight", {48, 48}},
                                                   {"transformer_blocks.0.attn.to_v.weight", {48, 48}},
                                                   {"norm_out.linear.weight", {96, 48}}};
  return shapes;
}

const AdapterTargets& targets(bool is_flux2) {
  static const AdapterTargets zimage("fuzz", {{"transformer", zimage_shapes(), nostos::zimage::file_layouts()}});
  static const AdapterTargets flux2("fuzz", {{"transformer", flux2_shapes(), nostos::flux2::file_layouts()}});
  return is_flux2 ? flux2 : zimage;
}

void merge_all(const Adapter& adapter, const std::map<std::string, Shape>& shapes) {
  if (adapter.updates.empty() || adapter.report.modules == 0) std::abort();
  for (const WeightUpdate& update : adapter.updates) {
    const Shape& shape = shapes.at(update.target);
    if (update.first_row < 0 || update.rows < 1 || update.first_row + update.rows > shape[0]) std::abort();
    std::vector<float> weight(static_cast<size_t>(shape.elements()), 1.0f);
    if (update.columns * shape[0] != shape.elements()) std::abort();
    merge_update(update, 1, weight);
  }
  if (adapter.report.summary().empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const bool is_flux2 : {false, true}) {
    try {
      const SafetensorsHeader header = parse_safetensors_header(std::as_bytes(std::span(data, size)), size, "fuzz");
      test::MemoryFile file("fuzz");
      for (const auto& [name, info] : header.tensors) {
        const auto* begin = reinterpret_cast<const std::byte*>(data) + header.data_begin;
        file.add(name, info.dtype_name, info.extents, {begin + info.begin, begin + info.end});
      }
      for (const auto& [key, value] : header.metadata) file.set_metadata(key, value);
      merge_all(read_adapter(file, targets(is_flux2)), is_flux2 ? flux2_shapes() : zimage_shapes());
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::model) std::abort();
    }
  }
  return 0;
}
