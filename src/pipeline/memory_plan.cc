// Implements the division of a GPU's memory.
#include "pipeline/memory_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"

namespace nostos {
namespace {

double gib(size_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024 * 1024); }

/// \return the part with the least on the device.
PartMemory smallest(const WeightSizes& sizes) {
  const PartMemory none = place_part(sizes, true, 0), all = place_part(sizes, true, sizes.blocks.size());
  return none.device_bytes <= all.device_bytes ? none : all;
}

/// \return the part with as little in host memory as `room_bytes` of the device allow: everything on the device, else
/// everything but the table, else as few streamed blocks as fit. Nothing if even streaming all blocks does not fit.
std::optional<PartMemory> fit_part(const WeightSizes& sizes, size_t room_bytes) {
  PartMemory part = place_part(sizes, false, 0);
  for (size_t streamed = 0; part.device_bytes > room_bytes; ++streamed) {
    if (streamed > sizes.blocks.size()) return {};
    part = place_part(sizes, true, streamed);
  }
  return part;
}

std::string part_text(std::string_view name, const PartMemory& part) {
  std::string text = fmt::format("{} {:.2f} GiB", name, gib(part.device_bytes));
  if (part.host_bytes > 0) {
    text += fmt::format(" and {:.2f} GiB in host memory ({} of {} blocks streamed)", gib(part.host_bytes),
                        part.blocks_streamed(), part.placement.streamed.size());
  }
  return text;
}

}  // namespace

MemoryMode parse_memory_mode(std::string_view name) {
  if (name == "auto") return MemoryMode::automatic;
  if (name == "resident") return MemoryMode::resident;
  if (name == "offload") return MemoryMode::offload;
  fail(ErrorKind::invalid_input, "memory mode '{}' is unknown; use auto, resident or offload", name);
}

MemoryOptions resolve_memory(const MemoryOptions& asked, Device device, int64_t ranks) {
  const bool on_gpu = device.kind == DeviceKind::cuda;
  require(on_gpu || !asked.limit_bytes, ErrorKind::invalid_input,
          "--memory-limit is about a GPU's memory, and this draws on {}", to_string(device));
  if (!on_gpu || ranks == 1) return asked;
  require(asked.mode != MemoryMode::offload, ErrorKind::invalid_input,
          "--memory offload streams weights for one rank a GPU, and {} ranks would share {}: use --memory resident, or "
          "one rank",
          ranks, to_string(device));
  MemoryOptions resident = asked;
  resident.mode = MemoryMode::resident;
  return resident;
}

size_t PartMemory::blocks_streamed() const { return static_cast<size_t>(std::ranges::count(placement.streamed, true)); }

PartMemory place_part(const WeightSizes& sizes, bool table_on_host, size_t streamed) {
  const size_t blocks = sizes.blocks.size();
  check(streamed <= blocks, "no more blocks can be streamed than there are");
  const auto once = static_cast<size_t>(std::ranges::count(sizes.uses, BlockUse::once_a_prompt));
  const size_t each_step = blocks - once;
  const size_t streamed_once = std::min(streamed, once), streamed_each = streamed - streamed_once;
  PartMemory part;
  part.placement = {table_on_host && sizes.table > 0, std::vector<bool>(blocks),
                    streamed > 0 ? sizes.largest_block() : 0};
  part.device_bytes = sizes.fixed + BlockStream::kSlots * part.placement.slot_bytes;
  (part.placement.table_on_host ? part.host_bytes : part.device_bytes) += sizes.table;
  size_t seen_once = 0, seen_each = 0;
  for (size_t i = 0; i < blocks; ++i) {
    bool streams;
    if (sizes.uses[i] == BlockUse::once_a_prompt) {
      streams = seen_once++ < streamed_once;
    } else {
      const size_t before = seen_each++ * streamed_each / each_step;
      streams = seen_each * streamed_each / each_step > before;
    }
    part.placement.streamed[i] = streams;
    if (streams)
      part.host_bytes += part.placement.slot_bytes;
    else
      part.device_bytes += sizes.blocks[i];
  }
  return part;
}

bool MemoryPlan::streams() const {
  return std::ranges::any_of(parts, [](const PartMemory& part) { return part.host_bytes > 0; });
}

MemoryPlan resident_plan(std::span<const PartNeeds> parts) {
  MemoryPlan plan;
  for (const PartNeeds& part : parts) plan.parts.push_back(place_part(part.sizes, false, 0));
  return plan;
}

MemoryPlan plan_memory(MemoryMode mode, const MemoryNeeds& needs, size_t available_bytes) {
  const size_t others = needs.scratch_bytes + needs.reserve_bytes;
  const size_t room = available_bytes - std::min(available_bytes, others);
  const auto total = [&](const MemoryPlan& plan) {
    size_t sum = 0, largest = 0;
    for (const PartMemory& part : plan.parts) {
      sum += part.device_bytes;
      largest = std::max(largest, part.device_bytes);
    }
    return needs.one_at_a_time ? largest : sum;
  };
  const MemoryPlan whole = resident_plan(needs.parts);
  if (total(whole) <= room) return whole;
  require(mode != MemoryMode::resident, ErrorKind::out_of_memory,
          "out of memory on {}: resident weights need {:.2f} GiB and this drawing {:.2f} GiB, and {:.2f} GiB may be "
          "used; --memory auto keeps a part of the weights in host memory",
          to_string(needs.device), gib(total(whole)), gib(others), gib(available_bytes));

  MemoryPlan plan;
  for (const PartNeeds& part : needs.parts) plan.parts.push_back(smallest(part.sizes));
  require(
      total(plan) <= room, ErrorKind::out_of_memory,
      "out of memory on {}: weights streamed from host memory still need {:.2f} GiB and this drawing {:.2f} GiB, and "
      "{:.2f} GiB may be used; draw a smaller picture",
      to_string(needs.device), gib(total(plan)), gib(others), gib(available_bytes));
  for (const bool each_step : {true, false}) {
    for (size_t i = 0; i < plan.parts.size(); ++i) {
      if (needs.parts[i].each_step != each_step) continue;
      PartMemory& part = plan.parts[i];
      const size_t part_room = needs.one_at_a_time ? room : room - (total(plan) - part.device_bytes);
      part = fit_part(needs.parts[i].sizes, part_room).value();
    }
  }
  return plan;
}

std::string describe(const MemoryPlan& plan, const MemoryNeeds& needs, size_t available_bytes) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < plan.parts.size(); ++i) parts.push_back(part_text(needs.parts[i].name, plan.parts[i]));
  return fmt::format("memory of {}: {:.2f} GiB may be used; {}{}, drawing {:.2f} GiB, reserve {:.2f} GiB",
                     to_string(needs.device), gib(available_bytes), fmt::join(parts, ", "),
                     needs.one_at_a_time ? " one after the other" : "", gib(needs.scratch_bytes),
                     gib(needs.reserve_bytes));
}

}  // namespace nostos
