// Owns the calls of cuBLASLt: a matrix product as a description, the algorithms that could run it, and its run.
#pragma once

#include <cublasLt.h>

#include <compare>
#include <cstdint>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"
#include "tensor/dtype.h"

namespace nostos::cuda {

/// y [rows, out] = x [rows, in] W^T (+ bias) (+ y) but for the number of rows. Sums are float32, without TF32.
struct Product {
  int64_t in = 0, out = 0;
  DType x = DType::f32;  ///< of x and W: f32 or bf16
  DType y = DType::f32;  ///< f32, or bf16 where x is
  bool bias = false;     ///< f32 [out]; y is f32 then
  bool accumulate = false;
  bool weight_is_in_out = false;  ///< W lies [in, out] rather than [out, in]

  friend auto operator<=>(const Product&, const Product&) = default;
};

/// Operands on the device, dense and row-major.
struct ProductOperands {
  const void* x = nullptr;
  const void* weight = nullptr;
  const float* bias = nullptr;
  void* y = nullptr;
};

/// One context's handle of the library.
class BlasLt {
 public:
  /// \throws Error device if the library cannot be started
  explicit BlasLt(Context& ctx);
  ~BlasLt();
  BlasLt(const BlasLt&) = delete;
  BlasLt& operator=(const BlasLt&) = delete;

  /// \return up to kCandidates algorithms in the order in which the library expects them to be fast, the same in
  /// every process of a machine. None needs more workspace than a counter, so none splits the sum of an element over
  /// blocks.
  std::vector<cublasLtMatmulAlgo_t> candidates(const Product& product, int64_t rows) const;
  static constexpr int kCandidates = 8;
  /// Room for the counter by which some kernels deal tiles to blocks; too little for partial sums.
  static constexpr size_t kWorkspaceBytes = 256;

  /// \return whether `algorithm`, a candidate for another number of rows, serves `rows`.
  bool supports(const Product& product, int64_t rows, const cublasLtMatmulAlgo_t& algorithm) const;

  /// Enqueues the product on the context's stream.
  void run(const Product& product, int64_t rows, const cublasLtMatmulAlgo_t& algorithm,
           const ProductOperands& operands) const;

 private:
  Context& ctx_;
  cublasLtHandle_t handle_ = nullptr;
  Buffer workspace_;
};

}  // namespace nostos::cuda
