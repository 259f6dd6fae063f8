// Turns adapters' changes into updates of weights.
#include "families/adapted_weights.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "adapters/merge.h"
#include "base/error.h"
#include "ops/linear_update.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

using Change = WeightChange;

View view_of(std::vector<float>& values, int64_t rows, int64_t columns) {
  return {reinterpret_cast<std::byte*>(values.data()), DType::f32, {rows, columns}};
}

std::vector<float> zeros(int64_t rows, int64_t columns) {
  return std::vector<float>(static_cast<size_t>(rows * columns), 0.f);
}

/// Makes the update of one weight.
class UpdateMaker {
 public:
  UpdateMaker(Context& ctx, const Linear& weight, const ReadWeight& read_weight)
      : ctx_(ctx), weight_(weight), read_weight_(read_weight) {}

  std::shared_ptr<const LinearUpdate> make(std::span<const Change> changes) {
    const UpdateForm form = form_of(weight_, changes);
    if (form.is_merged) {
      add_merged(changes);
    } else {
      for (const Change& change : changes) add(change);
      if (form.has_lengths)
        for (const Change& change : changes) add_lengths(change);
    }
    finish();
    return std::make_shared<const LinearUpdate>(std::move(made_));
  }

 private:
  void add(const Change& change) {
    if (const auto* low_rank = std::get_if<LowRank>(&change.update->delta)) return add_low_rank(change, *low_rank);
    const auto* kronecker = std::get_if<Kronecker>(&change.update->delta);
    if (kronecker != nullptr && change.is_whole_in_columns(weight_)) return add_kronecker(change, *kronecker);
    for (int64_t row = change.begin; row < change.end; ++row) {
      const std::vector<double> delta = delta_row(*change.update, row - change.update->first_row);
      float* to = difference_row(change.row_in_weight(row));
      for (int64_t i = 0; i < weight_.in; ++i)
        to[i] += static_cast<float>(change.factor() * delta[static_cast<size_t>(change.place->from_column + i)]);
    }
  }

  void add_low_rank(const Change& change, const LowRank& delta) {
    const int64_t column = change.place->from_column;
    auto block = std::ranges::find_if(
        blocks_, [&](const Block& known) { return known.down == delta.down && known.column == column; });
    if (block == blocks_.end()) {
      block = blocks_.insert(blocks_.end(), {delta.down, column, rank_, zeros(weight_.out, delta.down->rows)});
      rank_ += delta.down->rows;
    }
    for (int64_t row = change.begin; row < change.end; ++row) {
      const float* from = delta.up->row(row - change.update->first_row);
      float* to = block->up.data() + change.row_in_weight(row) * delta.down->rows;
      for (int64_t k = 0; k < delta.down->rows; ++k) to[k] += static_cast<float>(change.factor() * from[k]);
    }
  }

  void add_kronecker(const Change& change, const Kronecker& delta) {
    Matrix left = *delta.left;
    for (float& value : left.values) value = static_cast<float>(change.factor() * value);
    std::vector<float> right = delta.right->values;
    const NamedRows& place = *change.place;
    const bool in_one = place.run == place.count;
    const int64_t first = change.begin - place.from_row, count = change.end - change.begin;
    check(in_one || (first % place.run == 0 && count % place.run == 0), "rows that are dealt out come in whole runs");
    const KroneckerRows rows{delta.first_row + change.begin - change.update->first_row, count, place.row(first),
                             in_one ? count : place.run, in_one ? count : place.stride};
    made_.kronecker.push_back(ops::make_kronecker(ctx_, view_of(left.values, left.rows, left.columns),
                                                  view_of(right, delta.right->rows, delta.right->columns), rows,
                                                  weight_.input));
  }

  /// \return row `row`, of the weight, of the difference.
  float* difference_row(int64_t row) {
    if (difference_.empty()) difference_ = zeros(weight_.out, weight_.in);
    return difference_.data() + row * weight_.in;
  }

  /// Lets the outputs of a change's rows have its lengths: m / |W + delta|.
  void add_lengths(const Change& change) {
    if (scales_.empty()) scales_.assign(static_cast<size_t>(weight_.out), 1.f);
    if (!change.update->magnitude) return;
    const WeightUpdate& update = *change.update;
    const std::vector<float> base = read_weight_(update.target);
    for (int64_t row = change.begin; row < change.end; ++row) {
      const std::vector<double> delta = delta_row(update, row - update.first_row);
      const float* from = base.data() + row * update.columns;
      double sum = 0;
      for (int64_t i = 0; i < update.columns; ++i) {
        const double value = from[i] + change.factor() * delta[static_cast<size_t>(i)];
        sum += value * value;
      }
      const double length = update.magnitude->values[static_cast<size_t>(row - update.first_row)];
      if (sum > 0)
        scales_[static_cast<size_t>(change.row_in_weight(row))] = static_cast<float>(length / std::sqrt(sum));
    }
  }

  /// Adds what merging the changes one after the other makes of the checkpoint's matrices, as a difference.
  void add_merged(std::span<const Change> changes) {
    std::map<std::string, std::vector<Change>> of_target;
    for (const Change& change : changes) of_target[change.update->target].push_back(change);
    for (const auto& [target, own] : of_target) {
      const std::vector<float> base = read_weight_(target);
      std::vector<float> merged = base;
      const WeightUpdate* last = nullptr;
      for (const Change& change : own) {
        // A weight in parts has a change for each of its places.
        if (change.update != last) merge_update(*change.update, change.strength, merged);
        last = change.update;
      }
      std::vector<const NamedRows*> done;
      for (const Change& change : own) {
        if (std::ranges::find(done, change.place) != done.end()) continue;
        done.push_back(change.place);
        const NamedRows& place = *change.place;
        for (int64_t i = 0; i < place.count; ++i) {
          const int64_t from = (place.from_row + i) * change.update->columns + place.from_column;
          float* to = difference_row(place.row(i));
          for (int64_t j = 0; j < weight_.in; ++j)
            to[j] += merged[static_cast<size_t>(from + j)] - base[static_cast<size_t>(from + j)];
        }
      }
    }
  }

  void finish() {
    if (rank_ > 0) {
      std::vector<float> down, up = zeros(weight_.out, rank_);
      for (const Block& block : blocks_) {
        const int64_t rank = block.down->rows;
        for (int64_t k = 0; k < rank; ++k) {
          const float* row = block.down->row(k) + block.column;
          down.insert(down.end(), row, row + weight_.in);
        }
        for (int64_t row = 0; row < weight_.out; ++row)
          std::copy_n(block.up.data() + row * rank, rank, up.data() + row * rank_ + block.first);
      }
      made_.low_rank =
          ops::make_low_rank(ctx_, view_of(down, rank_, weight_.in), view_of(up, weight_.out, rank_), weight_.input);
    }
    if (!difference_.empty())
      made_.dense = ops::make_difference(ctx_, view_of(difference_, weight_.out, weight_.in), weight_.input);
    if (!scales_.empty()) {
      made_.column_scale = Tensor(ctx_.device(), DType::f32, {weight_.out});
      upload(ctx_, view_of(scales_, 1, weight_.out).reshape({weight_.out}), made_.column_scale);
    }
  }

  /// Factors that share their `down`, e.g. those of projections that a file fuses.
  struct Block {
    SharedMatrix down;
    int64_t column;         // of down, the weight's first
    int64_t first;          // rank before it
    std::vector<float> up;  // [out, rank]
  };

  Context& ctx_;
  const Linear& weight_;
  const ReadWeight& read_weight_;
  LinearUpdate made_;
  std::vector<Block> blocks_;
  int64_t rank_ = 0;
  std::vector<float> difference_;  // [out, in], or empty
  std::vector<float> scales_;      // [out], or empty
};

/// Writes vectors that adapters change, and those that they changed before and do no longer.
/// \param changed those that were changed before; becomes those that are now
void write_vectors(Context& ctx, const AdaptableWeights& weights, const WeightChanges& changes,
                   std::set<std::string>& changed) {
  std::set<std::string> all = changed;
  for (const auto& [name, own] : changes.vectors) all.insert(name);
  changed.clear();
  for (const std::string& name : all) {
    std::vector<float> values = weights.read_weight(name);
    if (const auto own = changes.vectors.find(name); own != changes.vectors.end()) {
      for (const auto& [update, strength] : own->second) merge_update(*update, strength, values);
      changed.insert(name);
    }
    const View vector = weights.storage.vectors.at(name);
    upload(ctx, view_of(values, 1, vector.elements()).reshape(vector.shape()), vector);
  }
}

}  // namespace

void adapt_weights(Context& ctx, const AdaptableWeights& weights, std::span<const ScaledAdapter> adapters,
                   AppliedAdapters& applied) {
  const WeightChanges changes = find_changes({weights.part, weights.table, weights.storage}, adapters);
  applied.updates.clear();
  applied.bytes = 0;
  for (const auto& [name, place] : weights.table) place.weight->update = nullptr;
  for (const auto& [weight, own] : changes.matrices) {
    weight->update = UpdateMaker(ctx, *weight, weights.read_weight).make(own);
    applied.bytes += weight->update->size_in_bytes();
  }
  for (const auto& [name, place] : weights.table) applied.updates.push_back(place.weight->update);
  write_vectors(ctx, weights, changes, applied.vectors);
  ctx.synchronize("adapters");
}

void adapt_again(Context& ctx, const AdaptableWeights& weights, std::span<const ScaledAdapter> adapters,
                 const AppliedAdapters& applied) {
  check(applied.updates.size() == weights.table.size(), "a network that is loaded anew has the same matrices");
  auto update = applied.updates.begin();
  for (const auto& [name, place] : weights.table) place.weight->update = *update++;
  std::set<std::string> changed;
  write_vectors(ctx, weights, find_changes({weights.part, weights.table, weights.storage}, adapters), changed);
  ctx.synchronize("adapters");
}

}  // namespace nostos
