// Owns weights that live in host memory and visit the device in turn, because it has no room for all of them.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"
#include "device/pinned_buffer.h"

namespace nostos {

/// Blocks of bytes, each at home in page-locked host memory, that are used one after the other. Each visits the device
/// at a fixed address, in one of two slots: it travels on the copy stream as soon as the block that was in its slot is
/// done with, so that the host, which enqueues ahead of the GPU, has blocks travel while others are computed with.
/// Serves one rank: visits are ordered with its streams.
class BlockStream {
 public:
  static constexpr size_t kSlots = 2;
  /// What stands in a block begins at multiples of this.
  static constexpr size_t kAlignment = 256;
  static constexpr size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  /// \param slot_bytes aligned() bytes of the largest block. \throws Error out_of_memory
  BlockStream(Device device, size_t slot_bytes);

  /// Begins another block. \return its number. \throws Error out_of_memory
  size_t add_block();
  /// Adds `bytes` at `from`, on the device, to the block added last; they come home in the order of ctx.stream().
  /// \return where they will stand on the device during a visit.
  const std::byte* add(Context& ctx, const std::byte* from, size_t bytes);

  /// What is enqueued on ctx.stream() from now on finds the block in its place. Blocks come in any order, but no other
  /// between a block's begin and end.
  void begin_visit(Context& ctx, size_t block);
  /// What is enqueued on ctx.stream() from now on does not use the block.
  void end_visit(Context& ctx, size_t block);

  /// \return bytes of the slots.
  size_t device_bytes() const { return memory_.size_bytes(); }
  /// \return bytes of the blocks' homes.
  size_t host_bytes() const { return homes_.size() * slot_bytes_; }

 private:
  struct Slot {
    explicit Slot(Device device) : arrived(device), left(device) {}
    std::optional<size_t> holds;  ///< the block that is there, or on its way
    Event arrived, left;          ///< of the last visit
  };

  std::byte* place(size_t block) const { return memory_.data() + block % kSlots * slot_bytes_; }

  Device device_;
  size_t slot_bytes_;
  std::vector<PinnedBuffer> homes_;
  std::vector<size_t> used_bytes_;  // of each block
  std::array<Slot, kSlots> slots_;
  Buffer memory_;  // given back first, which waits for copies from the homes
};

/// When a block's weights are needed: from begin() to end(). Nothing to do for weights that stay on the device.
class BlockVisit {
 public:
  /// Of weights that stay.
  BlockVisit() = default;
  BlockVisit(std::shared_ptr<BlockStream> stream, size_t block) : stream_(std::move(stream)), block_(block) {}

  void begin(Context& ctx) const {
    if (stream_) stream_->begin_visit(ctx, block_);
  }
  void end(Context& ctx) const {
    if (stream_) stream_->end_visit(ctx, block_);
  }

 private:
  std::shared_ptr<BlockStream> stream_;
  size_t block_ = 0;
};

}  // namespace nostos
