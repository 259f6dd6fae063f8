// Implements the sources of weights but random ones.
#include "models/weight_source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "ops/elementwise.h"
#include "ops/stored_weight.h"

namespace nostos {
namespace {

constexpr size_t kNamedAtMost = 8;  // names written out in one message

std::vector<int64_t> extents_of(const Shape& shape) {
  std::vector<int64_t> extents;
  for (int axis = 0; axis < shape.rank(); ++axis) extents.push_back(shape[axis]);
  return extents;
}

/// \return the extents but those of 1, which formats write and leave out as they like.
std::vector<int64_t> long_extents(std::vector<int64_t> extents) {
  std::erase(extents, 1);
  return extents;
}

/// \return the rows of a tensor: axes of 1 before them are left out.
int64_t rows_of(const std::vector<int64_t>& extents) {
  const auto first = std::ranges::find_if(extents, [](int64_t extent) { return extent != 1; });
  return first == extents.end() ? 1 : *first;
}

}  // namespace

std::vector<StoredMatrix> WeightSource::matrix(const std::string& name, const Shape& shape) {
  const ConstView all = tensor(name, shape);
  return {StoredMatrix::whole({stored_type(all.dtype())}, shape[0], shape[1], all.bytes())};
}

std::vector<TensorRows> CheckpointNames::find(const std::string& name) const {
  std::vector<TensorRows> rows = layout == nullptr ? find_as_named(name) : layout->find(name);
  for (TensorRows& part : rows) part.name.insert(0, prefix);
  return rows;
}

StoreSource::StoreSource(std::shared_ptr<const WeightStore> store, CheckpointNames names, Mode mode)
    : store_(std::move(store)), names_(std::move(names)), mode_(mode) {}

StoreSource::~StoreSource() {
  if (mode_ == Mode::load)
    for (const std::string& name : known_) store_->release(name);
}

std::optional<StoreSource::Stored> StoreSource::locate(const TensorRows& rows, const std::string& wanted) {
  const TensorInfo* info = store_->info(rows.name);
  if (info == nullptr) {
    problems_.push_back(fmt::format("{} is missing", rows.name));
    return std::nullopt;
  }
  const int64_t all_rows = rows_of(info->extents);
  if (all_rows % rows.parts != 0) {
    problems_.push_back(fmt::format("{} in {} is {}, whose rows cannot be {} equal parts, of which {} is one",
                                    rows.name, store_->where(rows.name), to_string(*info), rows.parts, wanted));
    return std::nullopt;
  }
  WeightFormat format;
  try {
    format = store_->format(rows.name);
  } catch (const Error& error) {
    problems_.emplace_back(error.what());
    return std::nullopt;
  }
  const int64_t part = all_rows / rows.parts;
  const bool has_rows = all_rows > 0 && long_extents(info->extents).size() > 1 &&
                        info->elements() / all_rows % block_elements(format.type) == 0;
  if (!has_rows && rows.parts > 1 && !format.is_plain()) {
    problems_.push_back(fmt::format("{} in {} is {}, whose blocks cannot be cut, and {} is a part of it", rows.name,
                                    store_->where(rows.name), to_string(*info), wanted));
    return std::nullopt;
  }
  return Stored{rows.name, info, format, rows.part * part, part, all_rows, has_rows};
}

std::vector<StoreSource::Stored> StoreSource::locate(const std::string& name, const Shape& shape) {
  std::vector<Stored> found;
  std::vector<int64_t> extents;  // of all parts, without axes of 1
  int64_t rows = 0;
  for (const TensorRows& part : names_.find(name)) {
    const std::optional<Stored> stored = locate(part, name);
    if (!stored) return {};
    extents = long_extents(stored->info->extents);
    rows += stored->rows;
    if (!extents.empty()) extents.front() = rows;
    found.push_back(*stored);
  }
  const std::vector<int64_t> wanted = long_extents(extents_of(shape));
  const bool is_matrix = wanted.size() > 1;  // whose rows must be its own, not a part of one
  if (is_matrix ? extents == wanted : long_extents(extents) == wanted) {
    for (const Stored& stored : found) known_.insert(stored.name);
    return found;
  }
  const Stored& first = found.front();
  const std::string place =
      fmt::format("{} in {} is {}", first.name, store_->where(first.name), to_string(*first.info));
  problems_.push_back(first.is_whole() && found.size() == 1
                          ? fmt::format("{}, the config wants the shape {}", place, to_string(shape))
                          : fmt::format("{}, the config wants the shape {} for {}, which stands there with others",
                                        place, to_string(shape), name));
  return {};
}

const float* StoreSource::scales_of(const Stored& stored) {
  if (stored.format.scales == WeightScales::none) return nullptr;
  const auto [at, is_new] = scales_.try_emplace(stored.name);
  if (is_new) at->second = store_->scales(stored.name);
  return at->second.data();
}

ConstView StoreSource::plain_rows(const std::string& name, const Stored& stored) {
  store_->will_need(stored.name);  // read ahead as a whole, not page by page
  const ConstView all = *store_->find(stored.name);
  const ConstView rows =
      stored.is_whole()
          ? all
          : all.reshape({stored.all_rows, all.elements() / stored.all_rows}).rows(stored.row, stored.rows);
  if (reinterpret_cast<uintptr_t>(rows.bytes()) % size_bytes(rows.dtype()) == 0) return rows;
  Tensor& copy = copies_.emplace(name, Tensor(Device{}, rows.dtype(), rows.shape()))->second;
  std::memcpy(copy.view().bytes(), rows.bytes(), rows.size_in_bytes());
  store_->release(stored.name);
  return std::as_const(copy).view();
}

StoredMatrix StoreSource::read(const std::string& name, const Stored& stored) {
  const int64_t all_rows = stored.has_rows ? stored.all_rows : 1, columns = stored.info->elements() / all_rows;
  const int64_t rows = stored.has_rows ? stored.rows : 1;
  if (mode_ == Mode::check_only) return StoredMatrix::whole(stored.format, rows, columns, nullptr);
  if (stored.format.is_plain()) {
    const ConstView own = plain_rows(name, stored);
    return StoredMatrix::whole(stored.format, rows, own.elements() / rows, own.bytes());
  }
  store_->will_need(stored.name);
  const std::byte* data = store_->find_bytes(stored.name)->data();
  const StoredMatrix all = StoredMatrix::whole(stored.format, all_rows, columns, data, scales_of(stored));
  return stored.has_rows ? all.row_range(stored.row, stored.rows) : all;
}

std::vector<StoredMatrix> StoreSource::matrix(const std::string& name, const Shape& shape) {
  const std::vector<Stored> found = locate(name, shape);
  if (!std::ranges::all_of(found, &Stored::has_rows)) {
    const ConstView numbers =
        mode_ == Mode::load ? dequantise(name, found, shape) : ConstView(nullptr, DType::f32, shape);
    return {StoredMatrix::whole({stored_type(numbers.dtype())}, shape[0], shape[1], numbers.bytes())};
  }
  std::vector<StoredMatrix> pieces;
  for (const Stored& stored : found) pieces.push_back(read(name, stored));
  return pieces;
}

ConstView StoreSource::tensor(const std::string& name, const Shape& shape) {
  const std::vector<Stored> found = locate(name, shape);
  if (found.empty()) return {};
  const bool is_plain = found.size() == 1 && found.front().format.is_plain();
  if (mode_ == Mode::check_only)
    return {nullptr, is_plain ? *plain_dtype(found.front().format.type) : DType::f32, shape};
  if (!is_plain) return dequantise(name, found, shape);
  return plain_rows(name, found.front()).reshape(shape);
}

ConstView StoreSource::dequantise(const std::string& name, const std::vector<Stored>& stored, const Shape& shape) {
  const auto [at, is_new] = dequantised_.try_emplace(name);
  if (!is_new) return std::as_const(at->second).view();
  Tensor& made = at->second = Tensor(Device{}, DType::f32, shape);
  std::byte* to = made.view().bytes();
  for (const Stored& part : stored) {
    const StoredMatrix matrix = read(name, part);
    const View rows(to, DType::f32, {matrix.rows, matrix.columns});
    ops::dequantise(host_, std::array{StoredPiece{matrix, 0, matrix.rows, matrix.rows}}, rows);
    to += rows.size_in_bytes();
  }
  return std::as_const(made).view();
}

void StoreSource::release(const std::string& name) {
  dequantised_.erase(name);
  copies_.erase(name);
  for (const TensorRows& part : names_.find(name)) store_->release(part.name);
}

void StoreSource::unneeded(const std::string& name, const Shape& shape) {
  // A single file may leave out what nobody needs, and a folder's part that lacks it is not whole.
  const bool may_lack = names_.layout != nullptr;
  const std::vector<TensorRows> parts = names_.find(name);
  if (may_lack && std::ranges::all_of(parts, [&](const TensorRows& part) { return !store_->info(part.name); })) return;
  locate(name, shape);
}

void StoreSource::ignored(const std::string& name) {
  known_.insert(name);
  for (const TensorRows& part : names_.find(name)) known_.insert(part.name);
}

void StoreSource::finish() {
  require(problems_.empty(), ErrorKind::model, "{}: {} of the weights do not fit: {}", store_->path().string(),
          problems_.size(), join_some(problems_, kNamedAtMost));
  if (mode_ == Mode::load) return;
  for (const std::string& note : store_->notes()) log_message(LogLevel::warning, note);
  if (names_.layout != nullptr)
    for (const std::string_view name : names_.layout->leftovers) known_.insert(names_.prefix + std::string(name));
  std::vector<std::string> unused = store_->weights();
  std::erase_if(unused, [&](const std::string& name) {
    return known_.contains(name) || (names_.is_shared && !name.starts_with(names_.prefix));
  });
  if (!unused.empty()) {
    log_warning("{}: {} tensors are not part of this model and were ignored: {}", store_->path().string(),
                unused.size(), join_some(unused, kNamedAtMost));
  }
}

}  // namespace nostos
