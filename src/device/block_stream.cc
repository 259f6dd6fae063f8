// Implements the visits of blocks.
#include "device/block_stream.h"

#include "base/error.h"

namespace nostos {

BlockStream::BlockStream(Device device, size_t slot_bytes)
    : device_(device),
      slot_bytes_(slot_bytes),
      slots_{Slot(device), Slot(device)},
      memory_(device, kSlots * slot_bytes_) {}

size_t BlockStream::add_block() {
  homes_.emplace_back(device_, slot_bytes_);
  used_bytes_.push_back(0);
  return homes_.size() - 1;
}

const std::byte* BlockStream::add(Context& ctx, const std::byte* from, size_t bytes) {
  check(!homes_.empty(), "bytes are added to a block");
  size_t& used = used_bytes_.back();
  const size_t begin = used;
  used += aligned(bytes);
  check(used <= slot_bytes_, "a block is larger than its slot");
  ctx.stream().copy(homes_.back().data() + begin, from, bytes);
  return place(homes_.size() - 1) + begin;
}

void BlockStream::begin_visit(Context& ctx, size_t block) {
  check(block < homes_.size(), "no such block");
  Slot& slot = slots_[block % kSlots];
  if (slot.holds != block) {
    // The copy before this one may be another context's, and nobody may have used what it brought.
    ctx.copy_stream().wait(slot.arrived);
    ctx.copy_stream().wait(slot.left);
    ctx.copy_stream().copy(place(block), homes_[block].data(), used_bytes_[block]);
    slot.arrived.record(ctx.copy_stream());
    slot.holds = block;
  }
  ctx.stream().wait(slot.arrived);
}

void BlockStream::end_visit(Context& ctx, size_t block) {
  Slot& slot = slots_[block % kSlots];
  check(slot.holds == block, "a visit ends that did not begin");
  slot.left.record(ctx.stream());
}

}  // namespace nostos
