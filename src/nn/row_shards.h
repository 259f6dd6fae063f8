// Owns an image whose rows are dealt to ranks: which rows are whose, halos for convolutions, and gathers.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "device/context.h"
#include "ops/conv.h"
#include "parallel/communicator.h"
#include "parallel/shard_plan.h"
#include "tensor/tensor.h"

namespace nostos::nn {

/// This rank's slab of an image. parallel::split() deals the rows of its coarsest resolution; at `scale` each of them
/// is `scale` image rows. Ranks beyond the rows hold none and still make every call. On one rank nothing is copied or
/// sent.
///
/// A *whole* tensor has room for the rows of all ranks (its outermost axis is a multiple of rows(): image rows, or
/// tokens), of which a rank computes its own. A *slab* has the own rows between those of the neighbours, its halo: one
/// above and one below, none at the edges of the image.
class RowShards {
 public:
  /// \param communicator outlives this. \param rows of the image at scale 1. \throws Error internal unless rows >= 1
  RowShards(Communicator& communicator, int64_t rows);
  /// One rank holds all rows.
  explicit RowShards(int64_t rows);

  /// \return the same image at a finer resolution, dealt alike: `factor` rows for each row of this.
  RowShards refined(int64_t factor) const;

  /// \return rows of the whole image at scale 1.
  int64_t rows() const { return rows_; }
  /// \return which rows of the whole image this rank holds.
  parallel::Range local(int64_t scale = 1) const {
    return {shares_[rank_].begin * scale, shares_[rank_].count * scale};
  }
  /// \return rows of this rank's slab: its own and the halo.
  int64_t slab_rows(int64_t scale) const { return above() + local(scale).count + below(); }

  /// \return the own rows of a slab.
  View own_of_slab(View slab) const { return slab.rows(above(), slab.shape()[0] - above() - below()); }
  /// \return the own rows of a whole tensor.
  View own_of_whole(View whole) const;

  /// Fills the halo of `slab` [slab_rows, ...] with the neighbours' outermost own rows. One message a neighbour.
  /// \throws Error peer_failed
  void exchange_halo(const Context& ctx, View slab) const;
  /// \return a slab without the row above its own.
  View own_and_below(View slab) const { return slab.rows(above(), slab.shape()[0] - above()); }
  /// \return zero padding with which a 3x3 convolution of a slab gives its own rows: where the image ends, not the
  /// slab.
  Padding padding() const { return {1 - above(), 1, 1 - below(), 1}; }

  /// Fills each whole tensor with the rows of all ranks, in the image's order; the own rows stand in place already. One
  /// message a peer and tensor, all in one exchange. \throws Error peer_failed
  void gather(const Context& ctx, std::initializer_list<View> wholes) const;

 private:
  /// \return the rows that rank `rank` holds of a whole tensor.
  View part(View whole, size_t rank) const;
  /// Only the last ranks are without rows, so that neighbours in the image are neighbours in rank.
  int64_t above() const { return shares_[rank_].count > 0 && rank_ > 0 ? 1 : 0; }
  int64_t below() const { return rank_ + 1 < shares_.size() && shares_[rank_ + 1].count > 0 ? 1 : 0; }

  Communicator* communicator_ = nullptr;  // null on one rank
  int64_t rows_;
  size_t rank_ = 0;
  std::vector<parallel::Range> shares_;
};

}  // namespace nostos::nn
