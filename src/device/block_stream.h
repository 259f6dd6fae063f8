// Owns weights that live in host memory and visit the device in turn. Use it where a device has no room for all
// weights; BlockVisit lets the same code run where it has.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"

namespace nostos {

/// Blocks of bytes that are used one after the other. A block's home is page-locked host memory. A block visits the
/// device at a fixed address, in one of two slots. It travels on the copy stream as soon as the block before it in the
/// same slot is done with. The host enqueues ahead of the GPU, so blocks travel while others are computed with. A
/// BlockStream serves one rank, whose streams order the visits.
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
  /// Adds the `bytes` at `from`, on the device, to the block added last. The copy home is made in the order of
  /// ctx.stream().
  /// \return where the bytes will stand on the device during a visit.
  const std::byte* add(Context& ctx, const std::byte* from, size_t bytes);

  /// What is enqueued on ctx.stream() from now on finds the block in its place. Blocks come in any order; no visit
  /// begins before the visit under way has ended.
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

/// The stretch of work in which a block's weights are needed, from begin() to end(). Both do nothing for weights that
/// stay on the device.
class BlockVisit {
 public:
  /// A visit of weights that stay on the device.
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
