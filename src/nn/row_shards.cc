// Implements the exchanges of an image whose rows are dealt to ranks.
#include "nn/row_shards.h"

#include "base/error.h"

namespace nostos::nn {

RowShards::RowShards(int64_t rows) : rows_(rows), shares_{{0, rows}} {
  check(rows >= 1, "an image has at least one row");
}

RowShards::RowShards(Communicator& communicator, int64_t rows)
    : communicator_(&communicator),
      rows_(rows),
      rank_(static_cast<size_t>(communicator.rank())),
      shares_(parallel::split(rows, communicator.world())) {
  check(rows >= 1, "an image has at least one row");
}

RowShards RowShards::refined(int64_t factor) const {
  RowShards fine = *this;
  fine.rows_ *= factor;
  for (parallel::Range& share : fine.shares_) share = {share.begin * factor, share.count * factor};
  return fine;
}

View RowShards::part(View whole, size_t rank) const {
  check(whole.shape()[0] % rows_ == 0, "a whole tensor has the same number of rows for each row of the image");
  const int64_t scale = whole.shape()[0] / rows_;
  return whole.rows(shares_[rank].begin * scale, shares_[rank].count * scale);
}

View RowShards::own_of_whole(View whole) const { return part(whole, rank_); }

void RowShards::exchange_halo(const Context& ctx, View slab) const {
  check(slab.shape()[0] >= slab_rows(1), "a slab holds the rank's rows and their halo");
  if (communicator_ == nullptr) return;
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  const auto meet = [&](int peer, int64_t own_row, int64_t halo_row) {
    sends.push_back({peer, device_bytes(ctx, slab.rows(own_row, 1))});
    receives.push_back({peer, device_bytes(ctx, slab.rows(halo_row, 1))});
  };
  const int rank = communicator_->rank();
  const int64_t last = slab.shape()[0] - 1;
  if (above() > 0) meet(rank - 1, 1, 0);
  if (below() > 0) meet(rank + 1, last - 1, last);
  communicator_->exchange("halo_exchange", sends, receives).wait();
}

void RowShards::gather(const Context& ctx, std::initializer_list<View> wholes) const {
  if (communicator_ == nullptr) return;
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  for (size_t peer = 0; peer < shares_.size(); ++peer) {
    if (peer == rank_) continue;
    const int to = static_cast<int>(peer);
    for (const View& whole : wholes) {
      if (shares_[rank_].count > 0) sends.push_back({to, device_bytes(ctx, own_of_whole(whole))});
      if (shares_[peer].count > 0) receives.push_back({to, device_bytes(ctx, part(whole, peer))});
    }
  }
  communicator_->exchange("row_gather", sends, receives).wait();
}

}  // namespace nostos::nn
