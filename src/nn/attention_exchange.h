// Owns the ways in which the ranks of one sequence exchange rows for heads around attention, each with its own memory;
// nn::ShardedSequence takes the first that serves. All give the bits of one rank, but for a ring.
#pragma once

#include <functional>
#include <optional>
#include <span>

#include "device/context.h"
#include "nn/sequence_ranks.h"
#include "ops/attention.h"
#include "tensor/tensor.h"

namespace nostos::nn {

/// Normalises and rotates the heads of some of this rank's rows and brings them where they are wanted: what
/// ops::split_heads_rope() does with a layer's projections. \param groups of as many tokens as there are rows
using SplitHeads = std::function<void(parallel::Range rows, std::span<const ops::HeadGroup> groups)>;

/// Ranks that reach one another's memory: the kernel that splits heads writes each to where its owner attends to it,
/// and attention writes each row's result to the row's owner. No message is sent.
struct SharedMemoryExchange {
  View packed;  ///< [the group's rows, 3, this rank's heads, head_dim]: the peers write into it

  static bool serves(const SequenceGroup& group, Device device, DType dtype);
  static SharedMemoryExchange take(Arena& arena, const SequenceGroup& group, DType dtype);
  void attend(Context& ctx, const SequenceGroup& group, const SplitHeads& split, const ops::Scoring& scoring,
              View mixed) const;
};

/// The way back of results by messages. Its memory serves the way there, too, which is over by then.
struct ResultMessages {
  View own_rows;  ///< of this rank's rows: heads on their way to the peers, then the peers' results
  View received;  ///< of the peers' rows: heads that are yet to be placed; scattered results, packed
  View mixed;     ///< [the group's rows, this rank's heads * head_dim]: attention's results

  void send_home(Context& ctx, const SequenceGroup& group, View out) const;
};

/// Messages of heads token-major, each row to where attention reads it: where attention takes heads as they lie, and
/// rows lie in few runs.
struct PackedExchange {
  View packed;  ///< [the group's rows, 3, this rank's heads, head_dim]
  ResultMessages results;

  static bool serves(const SequenceGroup& group, Device device, DType dtype);
  static PackedExchange take(Arena& arena, const SequenceGroup& group, DType dtype);
  void attend(Context& ctx, const SequenceGroup& group, const SplitHeads& split, const ops::Scoring& scoring,
              View mixed) const;
};

/// Attention over the keys of all groups, which travel around the ring. It adds parts up and so differs by rounding.
struct Ring {
  View keys_values[2];       ///< [2, this rank's heads, another group's rows, head_dim]: on their way
  View part, total;          ///< f32 [the group's rows, heads * head_dim]: over one group's keys, and over all so far
  View part_lse, total_lse;  ///< f32 [this rank's heads, the group's rows]

  static Ring take(Arena& arena, const SequenceGroup& group, DType dtype);
  /// \param heads [3, this rank's heads, the group's rows, head_dim]: q, k and v. \param mixed of ResultMessages
  void attend(Context& ctx, const SequenceGroup& group, View heads, const ops::Scoring& scoring, View mixed) const;
};

/// Messages of heads head-major, placed by a copy: serves everywhere.
struct HeadMajorExchange {
  View heads;  ///< [3, this rank's heads, the group's rows, head_dim]: q, k and v
  ResultMessages results;
  std::optional<Ring> ring;

  static HeadMajorExchange take(Arena& arena, const SequenceGroup& group, DType dtype);
  void attend(Context& ctx, const SequenceGroup& group, const SplitHeads& split, const ops::Scoring& scoring,
              View mixed) const;

 private:
  void exchange(Context& ctx, const SequenceGroup& group, const SplitHeads& split) const;
};

}  // namespace nostos::nn
