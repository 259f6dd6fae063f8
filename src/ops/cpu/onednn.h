// Owns oneDNN's handles of one context: engine, primitives made so far, and whether its matrix rows are independent.
#pragma once

#include <dnnl.hpp>

#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/lru_cache.h"
#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::cpu {

/// Rows of a fixed block, and output columns, where rows are not independent by themselves (see
/// OneDnn::rows_independent).
inline constexpr int64_t kBlockRows = 64;
inline constexpr int64_t kBlockColumns = 256;

/// Runs `call`, turning dnnl::error into Error internal (or out_of_memory).
template <class Call>
decltype(auto) with_dnnl_errors(const char* what, const Call& call) {
  try {
    return call();
  } catch (const dnnl::error& error) {
    fail(error.status == dnnl_out_of_memory ? ErrorKind::out_of_memory : ErrorKind::internal,
         "oneDNN: {} failed: {} (status {})", what, error.what(), static_cast<int>(error.status));
  }
}

inline dnnl::memory::data_type dnnl_type(DType dtype) {
  return dtype == DType::bf16 ? dnnl::memory::data_type::bf16
         : dtype == DType::i8 ? dnnl::memory::data_type::s8
                              : dnnl::memory::data_type::f32;
}

/// Makes oneDNN build and run primitives with one thread while it lives: those of a parallel loop. (Inside a parallel
/// region of several threads oneDNN does so by itself, in one of a single thread it does not.)
class SingleThreadScope {
 public:
  explicit SingleThreadScope(bool active);
  ~SingleThreadScope();
  SingleThreadScope(const SingleThreadScope&) = delete;
  SingleThreadScope& operator=(const SingleThreadScope&) = delete;

 private:
  int threads_before_;
};

/// One per context, through ctx.state<OneDnn>().
class OneDnn {
 public:
  explicit OneDnn(Context& ctx);

  /// A row-major product C[rows, out] (+)= A[rows, in] B with B either plain or packed; C is f32, of i8 operands i32.
  struct MatmulKey {
    int64_t rows, in, out;
    int64_t b_stride_in, b_stride_out;  ///< element strides of B; both 0: packed
    int64_t a_stride;                   ///< elements between rows of A
    int64_t c_stride;                   ///< elements between rows of C
    DType dtype;
    bool bias, accumulate;
    bool single_thread;  ///< run inside a parallel loop
    auto operator<=>(const MatmulKey&) const = default;
  };
  /// One output row of a channels-last convolution: the input is `kernel` rows of `width`.
  struct ConvKey {
    int64_t width, in, out, kernel, stride, left, right;
    DType dtype;
    bool accumulate;
    auto operator<=>(const ConvKey&) const = default;
  };
  /// What all rows of one convolution share.
  struct ConvMemory {
    dnnl::memory::desc source, target, scratchpad;
    dnnl::memory filter, bias;
  };

  /// \return the primitive for `key`, made anew where it is not among those of its kind that were used last.
  std::shared_ptr<const dnnl::matmul> matmul(const MatmulKey& key);
  std::shared_ptr<const dnnl::convolution_forward> convolution(const ConvKey& key, const dnnl::memory::desc& filter);
  /// Two sizes' worth and more: a drawing of one size uses some 45 products and 15 convolutions. Each has code of its
  /// own, 0.2 MB on average.
  static constexpr size_t kKeptProducts = 128, kKeptConvolutions = 64;

  /// \return the layout in which `primitive` takes its B.
  static dnnl::memory::desc weights_of(const dnnl::matmul& primitive);
  /// Runs `primitive` of `key` on raw pointers; from a parallel loop only for keys with single_thread.
  void run_matmul(const dnnl::matmul& primitive, const MatmulKey& key, const void* a, const void* b, const float* bias,
                  void* c);

  ConvMemory convolution_memory(const dnnl::convolution_forward& primitive, const std::byte* filter,
                                const std::byte* bias) const;
  /// Convolves one row; from a parallel loop.
  void run_convolution(const dnnl::convolution_forward& primitive, const ConvMemory& memory, const std::byte* window,
                       std::byte* row);

  const dnnl::engine& engine() const { return engine_; }
  dnnl::stream& stream() { return stream_; }
  /// \return whether it multiplies bf16 natively here.
  static bool has_bf16();
  /// \return whether it sums products of 8-bit numbers natively here, and so without rounding.
  static bool has_int8();
  /// \return whether oneDNN's own row results do not depend on the number of rows: with AVX-512 and proven by a
  /// self-check when the context was made. Otherwise rows go through blocks of kBlockRows, each by one thread.
  bool rows_independent(DType dtype) const { return rows_independent_[dtype == DType::bf16 ? 1 : 0]; }

  /// \return scratch of at least `bytes` for thread `thread`; grows to the largest request and stays.
  std::byte* workspace(int thread, size_t bytes);

 private:
  bool check_rows(DType dtype);
  /// Makes every thread's scratchpad at least `bytes`. Scratchpads are ours because oneDNN's own belong to the thread
  /// that made a primitive.
  void reserve_scratchpads(size_t bytes);

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::array<bool, 2> rows_independent_{};
  LruCache<MatmulKey, std::shared_ptr<const dnnl::matmul>> matmuls_{kKeptProducts};
  LruCache<ConvKey, std::shared_ptr<const dnnl::convolution_forward>> convolutions_{kKeptConvolutions};
  std::vector<Buffer> workspaces_;   // one a thread
  std::vector<Buffer> scratchpads_;  // one a thread
};

/// \return attributes of a primitive that takes its scratchpad from us and adds to its output if `accumulate`.
dnnl::primitive_attr make_attributes(bool accumulate);

/// \return the layout in which oneDNN wants a weight [in, out] of `dtype`.
dnnl::memory::desc packed_matrix_desc(const OneDnn& dnn, int64_t in, int64_t out, DType dtype);

}  // namespace nostos::cpu
