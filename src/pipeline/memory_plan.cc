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

/// \return the plan with the least on the device.
MemoryPlan smallest_plan(const MemoryNeeds& needs) {
  MemoryPlan plan;
  for (const PartNeeds& part : needs.parts)
    plan.parts.push_back(part.is_used ? smallest(part.sizes) : place_part(part.sizes, false, 0));
  return plan;
}

/// What must fit onto the device at once, in bytes.
struct Totals {
  size_t weights = 0, adapters = 0;
  size_t all() const { return weights + adapters; }
};

/// \return the sums over the parts that are loaded at the same time as one of them: all of them, or where they take
/// turns those that run in every step.
Totals totals_beside(const MemoryPlan& plan, const MemoryNeeds& needs, size_t part) {
  Totals sum;
  for (size_t i = 0; i < plan.parts.size(); ++i) {
    const bool is_together =
        i == part || !needs.one_at_a_time || (needs.parts[i].each_step && needs.parts[part].each_step);
    if (!is_together || !needs.parts[i].is_used) continue;
    sum = {sum.weights + plan.parts[i].device_bytes, sum.adapters + needs.parts[i].adapter_bytes};
  }
  return sum;
}

/// \return the largest of these sums.
Totals totals(const MemoryPlan& plan, const MemoryNeeds& needs) {
  Totals largest;
  for (size_t i = 0; i < plan.parts.size(); ++i) {
    const Totals sum = totals_beside(plan, needs, i);
    if (sum.all() > largest.all()) largest = sum;
  }
  return largest;
}

size_t room_for_parts(const MemoryNeeds& needs, size_t available_bytes) {
  return available_bytes - std::min(available_bytes, needs.scratch_bytes + needs.reserve_bytes);
}

/// \return ", the adapters 0.60 GiB", or "" without adapters.
std::string adapters_text(size_t bytes, std::string_view whose) {
  return bytes == 0 ? "" : fmt::format(", {} adapters {:.2f} GiB", whose, gib(bytes));
}

std::string part_text(const PartNeeds& needs, const PartMemory& part) {
  std::string text = fmt::format("{} {:.2f} GiB", needs.name, gib(part.device_bytes));
  if (part.host_bytes > 0) {
    text += fmt::format(" and {:.2f} GiB in host memory ({} of {} blocks streamed)", gib(part.host_bytes),
                        part.blocks_streamed(), part.placement.streamed.size());
  }
  return text + adapters_text(needs.adapter_bytes, "its");
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
  size_t seen_once = 0, seen_each = 0;
  for (size_t i = 0; i < blocks; ++i) {
    if (sizes.uses[i] == BlockUse::once_a_prompt) {
      part.placement.streamed[i] = seen_once++ < streamed_once;
    } else {
      const size_t before = seen_each++ * streamed_each / each_step;
      part.placement.streamed[i] = seen_each * streamed_each / each_step > before;
    }
  }
  part.device_bytes = resident_bytes(sizes, part.placement) + BlockStream::kSlots * part.placement.slot_bytes;
  part.host_bytes = (part.placement.table_on_host ? sizes.table : 0) + streamed * part.placement.slot_bytes;
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

bool has_room(const MemoryPlan& plan, const MemoryNeeds& needs, size_t available_bytes) {
  return totals(plan, needs).all() <= room_for_parts(needs, available_bytes);
}

bool can_plan(MemoryMode mode, const MemoryNeeds& needs, size_t available_bytes) {
  return has_room(resident_plan(needs.parts), needs, available_bytes) ||
         (mode != MemoryMode::resident && has_room(smallest_plan(needs), needs, available_bytes));
}

MemoryPlan plan_memory(MemoryMode mode, const MemoryNeeds& needs, size_t available_bytes) {
  const MemoryPlan whole = resident_plan(needs.parts);
  if (has_room(whole, needs, available_bytes)) return whole;
  const bool is_resident = mode == MemoryMode::resident;
  MemoryPlan plan = is_resident ? whole : smallest_plan(needs);
  const Totals least = totals(plan, needs);
  require(can_plan(mode, needs, available_bytes), ErrorKind::out_of_memory,
          "out of memory on {}: {} need {:.2f} GiB{} and this drawing {:.2f} GiB, and {:.2f} GiB may be used; {}",
          to_string(needs.device), is_resident ? "resident weights" : "weights streamed from host memory still",
          gib(least.weights), adapters_text(least.adapters, "the"), gib(needs.scratch_bytes + needs.reserve_bytes),
          gib(available_bytes),
          is_resident          ? "--memory auto keeps a part of the weights in host memory"
          : least.adapters > 0 ? "draw a smaller picture, or with fewer or smaller adapters"
                               : "draw a smaller picture");
  const size_t room = room_for_parts(needs, available_bytes);
  for (const bool each_step : {true, false}) {
    for (size_t i = 0; i < plan.parts.size(); ++i) {
      if (needs.parts[i].each_step != each_step || !needs.parts[i].is_used) continue;
      PartMemory& part = plan.parts[i];
      const PartNeeds& own = needs.parts[i];
      const size_t others = totals_beside(plan, needs, i).all() - part.device_bytes - own.adapter_bytes;
      part = fit_part(own.sizes, room - others - own.adapter_bytes).value();
    }
  }
  return plan;
}

std::string describe(const MemoryPlan& plan, const MemoryNeeds& needs, size_t available_bytes) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < plan.parts.size(); ++i)
    if (needs.parts[i].is_used) parts.push_back(part_text(needs.parts[i], plan.parts[i]));
  return fmt::format("memory of {}: {:.2f} GiB may be used; {}{}, drawing {:.2f} GiB, reserve {:.2f} GiB",
                     to_string(needs.device), gib(available_bytes), fmt::join(parts, ", "),
                     needs.one_at_a_time ? " one after the other" : "", gib(needs.scratch_bytes),
                     gib(needs.reserve_bytes));
}

}  // namespace nostos
