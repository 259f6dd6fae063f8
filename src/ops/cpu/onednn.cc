// Implements oneDNN's handles and the self-check of row independence.
#include "ops/cpu/onednn.h"

#include <omp.h>

#include <cstring>

#include "base/log.h"

namespace nostos::cpu {
namespace {

using Tag = dnnl::memory::format_tag;
using Dims = dnnl::memory::dims;

/// \return a descriptor that `primitive` was made with.
dnnl::memory::desc desc_of(const dnnl::primitive& primitive, dnnl::query what, int index = 0) {
  return dnnl::memory::desc(
      *dnnl_primitive_desc_query_md(primitive.get_primitive_desc(), dnnl::convert_to_c(what), index));
}

/// \return whether oneDNN uses these instructions here.
bool has_instructions(dnnl::cpu_isa wanted) {
  return (static_cast<int>(dnnl::get_effective_cpu_isa()) & static_cast<int>(wanted)) == static_cast<int>(wanted);
}

}  // namespace

SingleThreadScope::SingleThreadScope(bool active) : threads_before_(omp_get_max_threads()) {
  if (active) omp_set_num_threads(1);
}

SingleThreadScope::~SingleThreadScope() { omp_set_num_threads(threads_before_); }

dnnl::primitive_attr make_attributes(bool accumulate) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.f);
    attributes.set_post_ops(sum);
  }
  return attributes;
}

dnnl::memory::desc packed_matrix_desc(const OneDnn& dnn, int64_t in, int64_t out, DType dtype) {
  constexpr int64_t kTypicalRows = 256;
  const auto type = dnnl_type(dtype);
  const dnnl::matmul::desc desc(dnnl::memory::desc(Dims{kTypicalRows, in}, type, Tag::ab),
                                dnnl::memory::desc(Dims{in, out}, type, Tag::any),
                                dnnl::memory::desc(Dims{kTypicalRows, out}, dnnl::memory::data_type::f32, Tag::ab));
  return dnnl::matmul::primitive_desc(desc, dnn.engine()).weights_desc();
}

bool OneDnn::has_int8() { return has_instructions(dnnl::cpu_isa::avx512_core_vnni); }

bool OneDnn::has_bf16() { return has_instructions(dnnl::cpu_isa::avx512_core_bf16); }

OneDnn::OneDnn(Context& ctx) : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
  // The library keeps 1024 for itself by default. Ranks that are threads share them, beside what each keeps.
  dnnl::set_primitive_cache_capacity(kKeptProducts);
  workspaces_.resize(static_cast<size_t>(ctx.threads()));
  scratchpads_.resize(static_cast<size_t>(ctx.threads()));
  const bool avx512 = has_instructions(dnnl::cpu_isa::avx512_core);
  rows_independent_[0] = avx512 && check_rows(DType::f32);
  rows_independent_[1] = has_bf16() && check_rows(DType::bf16);
  if (avx512 && !rows_independent_[0]) log_info("oneDNN's rows depend on their number here: using fixed row blocks");
}

bool OneDnn::check_rows(DType dtype) {
  constexpr int64_t kRows = 70, kIn = 200, kOut = 136;
  const size_t element = size_bytes(dtype);
  std::vector<std::byte> a(static_cast<size_t>(kRows * kIn) * element), b(static_cast<size_t>(kIn * kOut) * element);
  uint32_t state = 1;
  const auto fill = [&](std::vector<std::byte>& to) {
    for (size_t i = 0; i < to.size() / element; ++i) {
      state = state * 1664525u + 1013904223u;
      const float value = static_cast<float>(state >> 8) * 0x1p-23f - 1.f;
      const bfloat16 half = to_bfloat16(value);
      if (dtype == DType::bf16)
        std::memcpy(to.data() + i * element, &half, element);
      else
        std::memcpy(to.data() + i * element, &value, element);
    }
  };
  fill(a);
  fill(b);
  std::vector<float> all(static_cast<size_t>(kRows * kOut)), part(all.size());
  const auto run = [&](int64_t first, int64_t rows, float* c) {
    const MatmulKey key{rows, kIn, kOut, 1, kIn, kIn, kOut, dtype, false, false, false};
    run_matmul(*matmul(key), key, a.data() + static_cast<size_t>(first * kIn) * element, b.data(), nullptr, c);
  };
  run(0, kRows, all.data());
  for (const int64_t rows : {1, 7, 13, 33}) {
    for (int64_t first = 0; first < kRows; first += rows) {
      run(first, std::min(rows, kRows - first), part.data() + first * kOut);
    }
    if (std::memcmp(all.data(), part.data(), all.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

std::shared_ptr<const dnnl::matmul> OneDnn::matmul(const MatmulKey& key) {
  if (const auto* known = matmuls_.find(key)) return *known;
  return with_dnnl_errors("making a matrix product", [&] {
    const SingleThreadScope scope(key.single_thread);
    const auto type = dnnl_type(key.dtype), f32 = dnnl::memory::data_type::f32;
    const auto result = key.dtype == DType::i8 ? dnnl::memory::data_type::s32 : f32;
    const dnnl::memory::desc a(Dims{key.rows, key.in}, type, Dims{key.a_stride, 1});
    const dnnl::memory::desc b =
        key.b_stride_in == 0 ? packed_matrix_desc(*this, key.in, key.out, key.dtype)
                             : dnnl::memory::desc(Dims{key.in, key.out}, type, Dims{key.b_stride_in, key.b_stride_out});
    const dnnl::memory::desc c(Dims{key.rows, key.out}, result, Dims{key.c_stride, 1});
    const dnnl::memory::desc bias(Dims{1, key.out}, f32, Tag::ab);
    const dnnl::matmul::desc desc = key.bias ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c);
    const dnnl::matmul::primitive_desc made(desc, make_attributes(key.accumulate), engine_);
    reserve_scratchpads(made.scratchpad_desc().get_size());
    return matmuls_.insert(key, std::make_shared<const dnnl::matmul>(made));
  });
}

dnnl::memory::desc OneDnn::weights_of(const dnnl::matmul& primitive) {
  return desc_of(primitive, dnnl::query::weights_md);
}

void OneDnn::run_matmul(const dnnl::matmul& primitive, const MatmulKey& key, const void* a, const void* b,
                        const float* bias, void* c) {
  // Only the pointers differ between calls: the descriptors come with the primitive.
  std::unordered_map<int, dnnl::memory> arguments{
      {DNNL_ARG_SRC, dnnl::memory(desc_of(primitive, dnnl::query::src_md), engine_, const_cast<void*>(a))},
      {DNNL_ARG_WEIGHTS, dnnl::memory(desc_of(primitive, dnnl::query::weights_md), engine_, const_cast<void*>(b))},
      {DNNL_ARG_DST, dnnl::memory(desc_of(primitive, dnnl::query::dst_md), engine_, c)}};
  if (key.bias) {
    arguments.emplace(DNNL_ARG_BIAS,
                      dnnl::memory(desc_of(primitive, dnnl::query::weights_md, 1), engine_, const_cast<float*>(bias)));
  }
  const dnnl::memory::desc scratchpad = desc_of(primitive, dnnl::query::scratchpad_md);
  if (scratchpad.get_size() > 0) {
    const int thread = key.single_thread ? omp_get_thread_num() : 0;
    arguments.emplace(DNNL_ARG_SCRATCHPAD,
                      dnnl::memory(scratchpad, engine_, scratchpads_[static_cast<size_t>(thread)].data()));
  }
  const SingleThreadScope scope(key.single_thread);
  with_dnnl_errors("a matrix product", [&] { primitive.execute(stream_, arguments); });
}

OneDnn::ConvMemory OneDnn::convolution_memory(const dnnl::convolution_forward& primitive, const std::byte* filter,
                                              const std::byte* bias) const {
  return {desc_of(primitive, dnnl::query::src_md), desc_of(primitive, dnnl::query::dst_md),
          desc_of(primitive, dnnl::query::scratchpad_md),
          dnnl::memory(desc_of(primitive, dnnl::query::weights_md), engine_, const_cast<std::byte*>(filter)),
          dnnl::memory(desc_of(primitive, dnnl::query::weights_md, 1), engine_, const_cast<std::byte*>(bias))};
}

void OneDnn::run_convolution(const dnnl::convolution_forward& primitive, const ConvMemory& memory,
                             const std::byte* window, std::byte* row) {
  std::unordered_map<int, dnnl::memory> arguments{
      {DNNL_ARG_SRC, dnnl::memory(memory.source, engine_, const_cast<std::byte*>(window))},
      {DNNL_ARG_WEIGHTS, memory.filter},
      {DNNL_ARG_BIAS, memory.bias},
      {DNNL_ARG_DST, dnnl::memory(memory.target, engine_, row)}};
  if (memory.scratchpad.get_size() > 0) {
    std::byte* scratchpad = scratchpads_[static_cast<size_t>(omp_get_thread_num())].data();
    arguments.emplace(DNNL_ARG_SCRATCHPAD, dnnl::memory(memory.scratchpad, engine_, scratchpad));
  }
  const SingleThreadScope scope(true);
  with_dnnl_errors("a convolution", [&] { primitive.execute(stream_, arguments); });
}

void OneDnn::reserve_scratchpads(size_t bytes) {
  for (Buffer& scratchpad : scratchpads_) {
    if (scratchpad.size_bytes() < bytes) scratchpad = Buffer(Device{}, bytes);
  }
}

std::byte* OneDnn::workspace(int thread, size_t bytes) {
  Buffer& mine = workspaces_[static_cast<size_t>(thread)];
  if (mine.size_bytes() < bytes) mine = Buffer(Device{}, bytes);
  return mine.data();
}

}  // namespace nostos::cpu
