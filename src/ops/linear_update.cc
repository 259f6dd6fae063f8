// Checks, packs and runs what is added beside a weight.
#include "ops/linear_update.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/rounding.h"
#include "device/workspace.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/int8_linear.h"
#include "tensor/transfer.h"

namespace nostos {

size_t LinearUpdate::size_in_bytes() const {
  size_t bytes = low_rank.down.size_in_bytes() + low_rank.up.size_in_bytes() + dense.size_in_bytes() +
                 column_scale.size_in_bytes();
  for (const KroneckerTerm& term : kronecker) bytes += term.left.size_in_bytes() + term.right.size_in_bytes();
  return bytes;
}

namespace ops {
namespace {

Tensor on_device(Context& ctx, ConstView host) {
  Tensor made(ctx.device(), host.dtype(), host.shape());
  upload(ctx, host, made);
  return made;
}

/// \return `host`, f32, filled up with zeros.
Tensor padded(ConstView host, const Shape& shape) {
  Tensor made(Device{}, DType::f32, shape);
  std::memset(made.view().bytes(), 0, made.size_in_bytes());
  const int64_t rows = host.shape()[0], columns = host.shape()[1];
  for (int64_t row = 0; row < rows; ++row)
    std::copy_n(host.data<float>() + row * columns, columns, made.data<float>() + row * shape[1]);
  return made;
}

bool is_matrix(ConstView view) { return view.dtype() == DType::f32 && view.shape().rank() == 2; }

}  // namespace

Linear make_difference(Context& ctx, ConstView difference, DType input) {
  check(is_matrix(difference), "what is added to a weight comes as f32 matrices");
  const Tensor whole = on_device(ctx, difference);
  if (input == DType::f32) return pack_linear(ctx, whole);
  Tensor rounded(ctx.device(), input, whole.shape());
  convert(ctx, whole, rounded);
  return pack_linear(ctx, rounded);
}

LowRankTerm make_low_rank(Context& ctx, ConstView down, ConstView up, DType input) {
  check(is_matrix(down) && is_matrix(up) && down.shape()[0] == up.shape()[1],
        "a low-rank term has two f32 matrices of one rank");
  const int64_t rank = round_up(down.shape()[0], kRankMultiple);
  return {make_difference(ctx, padded(down, {rank, down.shape()[1]}), input),
          make_difference(ctx, padded(up, {up.shape()[0], rank}), input)};
}

KroneckerTerm make_kronecker(Context& ctx, ConstView left, ConstView right, const KroneckerRows& rows, DType input) {
  check(is_matrix(left) && is_matrix(right), "a Kronecker product has two f32 matrices");
  check(rows.first_row >= 0 && rows.count >= 0 && rows.first_row + rows.count <= left.shape()[0] * right.shape()[0],
        "rows of a Kronecker product lie within it");
  return {on_device(ctx, left), make_difference(ctx, right, input), rows};
}

namespace {

struct ReducedScratch : Workspace {
  using Workspace::Workspace;
};
struct KroneckerScratch : Workspace {
  using Workspace::Workspace;
};
struct SumScratch : Workspace {
  using Workspace::Workspace;
};

// So little that a GPU's cache holds the products of a Kronecker term until they are summed.
constexpr int64_t kKroneckerBytes = int64_t{32} << 20;
constexpr int64_t kSumBytes = kUpdateScratchBytes - kKroneckerBytes;

/// Calls body(first, count) for some rows at a time, of which each takes `row_bytes` of scratch.
template <class Body>
void by_rows(int64_t rows, int64_t row_bytes, int64_t most_bytes, const Body& body) {
  const int64_t at_once = std::max(most_bytes / row_bytes / kFewestUpdateRows, int64_t{1}) * kFewestUpdateRows;
  for (int64_t first = 0; first < rows; first += at_once) body(first, std::min(at_once, rows - first));
}

void check_update(const Linear& w) {
  const LinearUpdate& update = *w.update;
  const auto is_for = [&](const Linear& made, int64_t out, int64_t in) {
    return made.out == out && made.in == in && made.input == w.input && !made.bias && !made.update;
  };
  const LowRankTerm& low_rank = update.low_rank;
  check(!low_rank || (is_for(low_rank.down, low_rank.up.in, w.in) && is_for(low_rank.up, w.out, low_rank.down.out)),
        "a low-rank term is for a weight of its shape and inputs");
  check(!update.dense.packed || is_for(update.dense, w.out, w.in), "a difference is for a weight of its shape");
  check(!update.column_scale || update.column_scale.shape() == Shape({w.out}), "each output has its factor");
  for (const KroneckerTerm& term : update.kronecker) {
    check(term.left.shape().rank() == 2 && is_for(term.right, term.right.out, term.right.in) &&
              term.left.shape()[1] * term.right.in == w.in,
          "a Kronecker product is for a weight of its columns and inputs");
    check(term.rows.count == 0 || term.rows.row(term.rows.count - 1) < w.out, "a term's rows stand in its weight");
  }
}

size_t reduced_bytes(Device device, int64_t rows, const Linear& down) {
  const size_t elements = static_cast<size_t>(round_up(rows * down.out, 128));
  const DType sums = product_dtype(device, down.input);
  return elements * (size_bytes(down.input) + (sums == down.input ? 0 : size_bytes(sums)));
}

/// \return x down^T as inputs of a product with `up`. \param memory reduced_bytes()
ConstView reduce(Context& ctx, ConstView x, const Linear& down, std::byte* memory) {
  const Shape shape{x.shape()[0], down.out};
  const View reduced(memory, down.input, shape);
  const DType sums = product_dtype(ctx.device(), down.input);
  if (sums == down.input) {
    linear(ctx, x, down, reduced);
  } else {
    const View wide(memory + static_cast<size_t>(round_up(shape.elements(), 128)) * size_bytes(down.input), sums,
                    shape);
    linear(ctx, x, down, wide);
    convert(ctx, wide, reduced);
  }
  return reduced;
}

ConstView reduce(Context& ctx, ConstView x, const Linear& down) {
  const size_t bytes = reduced_bytes(ctx.device(), x.shape()[0], down);
  return reduce(ctx, x, down, ctx.state<ReducedScratch>().at_least(bytes));
}

/// \return whether the kernel that adds a low-rank term takes that of `w`.
bool has_room(const Linear& w) { return !w.int8 || w.update->low_rank.up.in <= kMostInt8TermRank; }

/// \return x down^T, and what it is multiplied with.
Int8Term low_rank_term(Context& ctx, ConstView x, const Linear& w) {
  return {reduce(ctx, x, w.update->low_rank.down), &w.update->low_rank.up};
}

/// y = x W^T and the low-rank term, in one kernel.
void sum_with_low_rank(Context& ctx, ConstView x, const Linear& w, View y) {
  if (w.int8) return rounded_linear_sum(ctx, x, w, low_rank_term(ctx, x, w), y);
  fused_linear_sum(ctx, x, w, reduce(ctx, x, w.update->low_rank.down), w.update->low_rank.up, y);
}

void add_kronecker_term(Context& ctx, ConstView x, const KroneckerTerm& term, View y) {
  const int64_t b = term.left.shape()[1], c = term.right.out, d = term.right.in;
  const int64_t row_bytes = b * c * static_cast<int64_t>(sizeof(float));
  by_rows(x.shape()[0], row_bytes, kKroneckerBytes, [&](int64_t first, int64_t count) {
    const size_t bytes = static_cast<size_t>(count * row_bytes);
    const View products(ctx.state<KroneckerScratch>().at_least(bytes), DType::f32, {count * b, c});
    linear(ctx, x.rows(first, count).reshape({count * b, d}), term.right, products);
    add_kronecker(ctx, products.reshape({count, b, c}), term.left, term.rows, y.rows(first, count));
  });
}

void add_terms(Context& ctx, ConstView x, const LinearUpdate& update, View y) {
  if (update.low_rank) linear(ctx, reduce(ctx, x, update.low_rank.down), update.low_rank.up, y, true);
  for (const KroneckerTerm& term : update.kronecker) add_kronecker_term(ctx, x, term, y);
  if (update.dense.packed) linear(ctx, x, update.dense, y, true);
}

void scaled_linear(Context& ctx, ConstView x, const Linear& w, View y, bool accumulate) {
  Linear plain = w;
  plain.bias = {};
  plain.update = nullptr;
  const bool in_place = y.dtype() == DType::f32 && !accumulate;
  const auto some_rows = [&](ConstView some_x, View sums, View some_y) {
    linear(ctx, some_x, plain, sums);
    add_terms(ctx, some_x, *w.update, sums);
    scale_columns(ctx, sums, w.update->column_scale, w.bias, some_y, accumulate);
  };
  if (in_place) return some_rows(x, y, y);
  const int64_t row_bytes = w.out * static_cast<int64_t>(sizeof(float));
  by_rows(x.shape()[0], row_bytes, kSumBytes, [&](int64_t first, int64_t count) {
    const size_t bytes = static_cast<size_t>(count * row_bytes);
    const View sums(ctx.state<SumScratch>().at_least(bytes), DType::f32, {count, w.out});
    some_rows(x.rows(first, count), sums, y.rows(first, count));
  });
}

}  // namespace

bool fuses_update(Device device, const Linear& w) {
  const int64_t multiple = capabilities(device).summed_multiple;
  return !w.update || (w.update->is_low_rank() && multiple > 0 && w.update->low_rank.up.in % multiple == 0);
}

void updated_linear(Context& ctx, ConstView x, const Linear& w, View y, bool accumulate) {
  check_update(w);
  const LinearUpdate& update = *w.update;
  if (x.shape()[0] == 0) return;
  const bool is_plain_bf16 = y.dtype() == DType::bf16 && !w.bias && !accumulate;
  if (is_plain_bf16 && update.is_low_rank() && fuses_linear_sum(ctx.device(), w, update.low_rank.up) && has_room(w))
    return sum_with_low_rank(ctx, x, w, y);
  if (update.column_scale) return scaled_linear(ctx, x, w, y, accumulate);
  if (w.int8)
    rounded_linear(ctx, x, w, y, accumulate);
  else
    dispatch<linear>(ctx, x, w, y, accumulate);
  add_terms(ctx, x, update, y);
}

void updated_gated_linear(Context& ctx, ConstView x, const Linear& w, View out) {
  check_update(w);
  const LinearUpdate& update = *w.update;
  const bool is_fused =
      update.is_low_rank() && update.low_rank.up.in % capabilities(ctx.device()).gated_multiple == 0 && has_room(w);
  if (is_fused && w.int8) return rounded_gated_linear(ctx, x, w, low_rank_term(ctx, x, w), out);
  if (is_fused) return fused_gated_linear_sum(ctx, {x, reduce(ctx, x, update.low_rank.down)}, w, out);
  const int64_t row_bytes = w.out * static_cast<int64_t>(sizeof(float));
  by_rows(x.shape()[0], row_bytes, kSumBytes, [&](int64_t first, int64_t count) {
    const size_t bytes = static_cast<size_t>(count * row_bytes);
    const View sums(ctx.state<SumScratch>().at_least(bytes), DType::f32, {count, w.out});
    updated_linear(ctx, x.rows(first, count), w, sums, false);
    silu_mul_interleaved(ctx, sums, out.rows(first, count));
  });
}

void updated_linear_sum(Context& ctx, ConstView x_a, const Linear& a, ConstView x_b, const Linear& b, View y) {
  const Device device = ctx.device();
  const auto bytes = [&](ConstView x, const Linear& w) {
    return w.update ? reduced_bytes(device, x.shape()[0], w.update->low_rank.down) : 0;
  };
  const size_t bytes_a = bytes(x_a, a);
  std::byte* memory = ctx.state<ReducedScratch>().at_least(bytes_a + bytes(x_b, b));
  const auto inputs = [&](ConstView x, const Linear& w, std::byte* at) {
    return UpdateInputs{x, w.update ? reduce(ctx, x, w.update->low_rank.down, at) : ConstView{}};
  };
  fused_updated_linear_sum(ctx, inputs(x_a, a, memory), a, inputs(x_b, b, memory + bytes_a), b, y);
}

void add_kronecker(Context& ctx, ConstView products, ConstView left, const KroneckerRows& rows, View y) {
  const Shape& shape = products.shape();
  check(shape.rank() == 3 && shape[0] == y.shape()[0] && left.shape() == Shape({left.shape()[0], shape[1]}),
        "add_kronecker takes a product for each column of the left factor");
  check(products.dtype() == DType::f32 && left.dtype() == DType::f32, "a Kronecker product is summed in f32");
  check(rows.first_row >= 0 && rows.first_row + rows.count <= left.shape()[0] * shape[2],
        "rows of a Kronecker product lie within it");
  if (rows.count == 0) return;
  check(rows.run > 0 && rows.begin >= 0 && rows.row(rows.count - 1) < y.shape()[1],
        "a term's rows stand in its weight");
  dispatch<add_kronecker>(ctx, products, left, rows, y);
}

void scale_columns(Context& ctx, ConstView sums, ConstView scale, ConstView bias, View y, bool accumulate) {
  check(sums.dtype() == DType::f32 && sums.shape() == y.shape() && scale.shape() == Shape({y.shape()[1]}),
        "scale_columns keeps the shape of f32 sums");
  check(!bias || bias.shape() == scale.shape(), "each output has its bias");
  dispatch<scale_columns>(ctx, sums, scale, bias, y, accumulate);
}

void fused_gated_linear_sum(Context& ctx, const UpdateInputs& x, const Linear& w, View out) {
  check_update(w);
  check(x.reduced.dtype() == w.input && x.reduced.shape() == Shape({x.x.shape()[0], w.update->low_rank.up.in}),
        "a low-rank term takes what its first factor gives");
  dispatch_to_gpu<fused_gated_linear_sum>(ctx, x, w, out);
}

void fused_updated_linear_sum(Context& ctx, const UpdateInputs& x_a, const Linear& a, const UpdateInputs& x_b,
                              const Linear& b, View y) {
  const int64_t rows = y.shape()[0];
  const auto is_for = [&](const UpdateInputs& inputs, const Linear& w) {
    if (w.update) check_update(w);
    return inputs.x.dtype() == w.input && inputs.x.shape() == Shape({rows, w.in}) && w.out == y.shape()[1] &&
           static_cast<bool>(w.update) == static_cast<bool>(inputs.reduced);
  };
  check(is_for(x_a, a) && is_for(x_b, b) && y.dtype() == product_dtype(ctx.device(), a.input),
        "linear_sum's shapes do not match");
  dispatch_to_gpu<fused_updated_linear_sum>(ctx, x_a, a, x_b, b, y);
}

}  // namespace ops
}  // namespace nostos
