// Owns what tests of sharded sequences share: ranks that reach one another's memory and ranks that do not, and a rank's
// rows of a whole.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "ops/support.h"
#include "parallel/shard_plan.h"
#include "parallel/thread_communicator.h"

namespace nostos::nn {

/// \return the rows of `whole` that `runs` name.
inline Tensor rows_of(const Tensor& whole, std::span<const parallel::Range> runs, int64_t count) {
  Shape shape = whole.shape();
  Tensor made({}, whole.dtype(), {count, shape[1]});
  int64_t at = 0;
  for (const parallel::Range& run : runs) {
    copy_bytes(whole.view().rows(run.begin, run.count), made.view().rows(at, run.count));
    at += run.count;
  }
  EXPECT_EQ(at, count);
  return made;
}

/// The same ranks as if they could not write to one another's memory.
class RanksApart final : public Communicator {
 public:
  explicit RanksApart(Communicator& ranks) : Communicator(ranks.rank(), ranks.world()), ranks_(ranks) {}
  void abort(std::string_view reason) noexcept override { ranks_.abort(reason); }
  RankDevice& device() override { return device_; }

 protected:
  std::unique_ptr<Operation> start(const char* name, std::span<const SendTo> sends,
                                   std::span<const ReceiveFrom> receives, std::span<const int>) override {
    class Exchange final : public Operation {
     public:
      explicit Exchange(Pending pending) : pending_(std::move(pending)) {}
      void wait() override { pending_.wait(); }

     private:
      Pending pending_;
    };
    return std::make_unique<Exchange>(ranks_.exchange(name, sends, receives));
  }

 private:
  HostRankDevice device_{*this};
  Communicator& ranks_;
};

/// Runs `body` on thread ranks that write to one another's memory, and on ranks that cannot.
inline void run_ranks(int world, const std::function<void(Communicator&)>& body) {
  run_thread_ranks(world, body);
  run_thread_ranks(world, [&](Communicator& ranks) {
    RanksApart apart(ranks);
    body(apart);
  });
}

}  // namespace nostos::nn
