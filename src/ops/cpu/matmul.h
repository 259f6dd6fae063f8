// Owns small matrix products on plain operands inside a parallel loop: what attention is made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "device/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

namespace nostos::cpu {

/// C[rows, out] = A[rows, in] B, B plain with any strides, C float32; each product runs on the calling thread alone.
class BlockMatmul {
 public:
  struct Product {
    int64_t rows, in, out;
    int64_t b_stride_in, b_stride_out;  ///< elements
    int64_t a_stride, c_stride;         ///< elements between rows
    friend bool operator==(const Product&, const Product&) = default;
  };

  BlockMatmul(Context& ctx, DType dtype) : ctx_(ctx), dtype_(dtype) {}

  /// Makes what `product` needs; call before the parallel loop. \throws Error internal, out_of_memory
  void prepare(const Product& product);
  /// Safe from several threads once prepared.
  void run(const Product& product, const void* a, const void* b, float* c) const;
  /// \return whether a row's result is the same only among products of equally many rows: blocks must then be padded
  /// to one size.
  bool fixed_rows() const;
  /// Scratch memory, one piece a thread; reserve before the loop.
  void reserve_workspaces(size_t bytes);
  std::byte* workspace(int thread, size_t bytes) const;

 private:
  Context& ctx_;
  DType dtype_;
  std::vector<std::pair<Product, std::shared_ptr<const void>>> prepared_;  // what the library made for each
};

/// sums [rows, out] = x [rows, in] w [out, in]^T in whole numbers, i8 of both, by a library. \return whether there is
/// one whose sums are exact on this CPU: without the instructions for it oneDNN's are cut off
bool multiply_int8(Context& ctx, ConstView x, ConstView w, int32_t* sums);

}  // namespace nostos::cpu
