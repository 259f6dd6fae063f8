// Implements collecting rows.
#include "quantisation/layer_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tensor/bfloat16.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

std::string key_of(const Linear& w) {
  std::string key;
  for (const NamedRows& rows : w.rows) key += fmt::format("{}[{},{}] ", rows.name, rows.from_row, rows.from_column);
  return key;
}

float magnitude(ConstView x, int64_t i) {
  return std::abs(x.dtype() == DType::f32 ? x.data<float>()[i] : to_float(x.data<bfloat16>()[i]));
}

/// \return the row of x, on the host, that has the largest number.
int64_t largest_row(ConstView x) {
  const int64_t rows = x.shape()[0], columns = x.shape()[1];
  std::vector<float> largest(static_cast<size_t>(rows));
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = row * columns; i < (row + 1) * columns; ++i)
      largest[static_cast<size_t>(row)] = std::max(largest[static_cast<size_t>(row)], magnitude(x, i));
  return std::ranges::max_element(largest) - largest.begin();
}

}  // namespace

std::shared_ptr<const InputWatch> LayerInputs::watch() {
  return std::make_shared<const InputWatch>([this](Context& ctx, const Linear& w, ConstView x) { see(ctx, w, x); });
}

void LayerInputs::see(Context& ctx, const Linear& w, ConstView x) {
  const int64_t count = x.shape()[0];
  if (count == 0) return;
  Tensor copy;
  if (ctx.device().kind != DeviceKind::cpu) {
    copy = Tensor(Device{}, x.dtype(), x.shape());
    download(ctx, x, copy);
    ctx.synchronize("inputs of a product");
    x = std::as_const(copy).view();
  }
  const auto [known, is_new] = places_.try_emplace(key_of(w), products_.size());
  if (is_new) products_.push_back({w.rows, w.in, w.out, x.dtype()});
  SeenRows& seen = products_[known->second];
  std::set<int64_t> chosen{largest_row(x)};
  const int64_t spread = std::min(rows_each_ - (rows_each_ < count ? 1 : 0), count);
  for (int64_t i = 0; i < spread; ++i) chosen.insert(i * count / std::min(rows_each_, count));
  for (const int64_t row : chosen) {
    const ConstView one = x.rows(row, 1);
    seen.rows.insert(seen.rows.end(), one.bytes(), one.bytes() + one.size_in_bytes());
    seen.groups.push_back(group_);
  }
}

}  // namespace nostos
