// Implements measuring products.
#include "quantisation/layer_errors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <utility>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/int8_linear.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// \return the weight of a product on ctx's device, f32 [out, in].
Tensor read_product(Context& ctx, const SeenRows& product, const ReadWeight& read) {
  Tensor host(Device{}, DType::f32, {product.out, product.in});
  float* to = host.data<float>();
  for (const NamedRows& part : product.weight) {
    check(part.from_column == 0, "products that may be rounded are with whole rows");
    const std::vector<float> matrix = read(part.name);
    const auto first = matrix.begin() + part.from_row * product.in;
    to = std::copy(first, first + part.count * product.in, to);
  }
  Tensor made(ctx.device(), DType::f32, host.shape());
  upload(ctx, host, made);
  return made;
}

/// \return the numbers of y on the host.
std::vector<float> numbers_of(Context& ctx, ConstView y) {
  Tensor wide(ctx.device(), DType::f32, y.shape()), host(Device{}, DType::f32, y.shape());
  ops::convert(ctx, y, wide);
  download(ctx, wide, host);
  ctx.synchronize("products");
  return {host.data<float>(), host.data<float>() + y.shape().elements()};
}

std::vector<float> exact_product(Context& ctx, ConstView x, ConstView weight) {
  Tensor as_input(ctx.device(), x.dtype(), weight.shape());
  ops::convert(ctx, weight, as_input);
  const Linear w = ops::pack_linear(ctx, as_input);
  Tensor y(ctx.device(), DType::f32, {x.shape()[0], w.out});
  ops::linear(ctx, x, w, y);
  return numbers_of(ctx, y);
}

std::vector<float> rounded_product(Context& ctx, ConstView x, ConstView weight) {
  const int64_t out = weight.shape()[0], in = weight.shape()[1], rows = x.shape()[0];
  const int64_t rotation = ops::int8_rotation(in);
  Tensor numbers(ctx.device(), DType::i8, weight.shape()), scales(ctx.device(), DType::f32, {out});
  ops::quantise_rows(ctx, weight, rotation, numbers, scales);
  Tensor rounded(ctx.device(), DType::i8, x.shape()), of_rows(ctx.device(), DType::f32, {rows});
  ops::quantise_rows(ctx, x, rotation, rounded, of_rows);
  Tensor y(ctx.device(), ops::product_dtype(ctx.device(), DType::bf16), {rows, out});
  ops::int8_linear(ctx, {rounded, of_rows}, {rotation, numbers, scales}, y);
  return numbers_of(ctx, y);
}

LayerError error_of(Context& ctx, const SeenRows& product, const ReadWeight& read) {
  LayerError made{{}, product.in, product.out};
  for (const NamedRows& part : product.weight) made.matrices.push_back(part.name);
  const int64_t rows = std::ssize(product.groups);
  Tensor x(ctx.device(), product.dtype, {rows, product.in});
  upload(ctx, ConstView(product.rows.data(), product.dtype, x.shape()), x);
  const Tensor weight = read_product(ctx, product, read);
  const std::vector<float> exact = exact_product(ctx, x, weight.view());
  const std::vector<float> rounded = rounded_product(ctx, x, weight.view());
  std::map<size_t, std::pair<double, double>> squares;  // of difference and product, by group
  const auto out = static_cast<size_t>(product.out);
  for (size_t i = 0; i < exact.size(); ++i) {
    auto& [difference, all] = squares[product.groups[i / out]];
    const double wanted = exact[i], error = rounded[i] - wanted;
    difference += error * error;
    all += wanted * wanted;
  }
  for (const auto& [group, sums] : squares) {
    const auto [difference, all] = sums;
    // Both are zero where all inputs are.
    const double error = !std::isfinite(difference + all) ? std::numeric_limits<double>::infinity()
                         : difference == 0                ? 0
                                                          : std::sqrt(difference / all);
    made.mean += error / static_cast<double>(squares.size());
    made.worst = std::max(made.worst, error);
  }
  return made;
}

}  // namespace

std::vector<LayerError> layer_errors(Context& ctx, const std::vector<SeenRows>& products, const ReadWeight& read,
                                     const std::function<void()>& on_layer) {
  std::vector<LayerError> errors;
  for (const SeenRows& product : products) {
    errors.push_back(error_of(ctx, product, read));
    if (on_layer) on_layer();
  }
  return errors;
}

std::set<std::string> keep_layers(std::span<LayerError> layers, double bound) {
  std::set<std::string> kept;
  const auto shares = [&](const LayerError& layer) {
    return std::ranges::any_of(layer.matrices, [&](const std::string& name) { return kept.contains(name); });
  };
  for (bool is_new = true; is_new;) {
    is_new = false;
    for (LayerError& layer : layers) {
      if (layer.is_kept || !(layer.worst > bound || shares(layer))) continue;
      layer.is_kept = is_new = true;
      kept.insert(layer.matrices.begin(), layer.matrices.end());
    }
  }
  return kept;
}

}  // namespace nostos
