// Owns the choice of which weights stay on the device, and which are kept in host memory and streamed to the device.
// These are pure functions; ModelParts carries the choice out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "families/model_part.h"

namespace nostos {

/// Where weights are while no stage uses them.
enum class MemoryMode {
  automatic,  ///< on the device, as far as it has room
  resident,   ///< on the device
  offload,    ///< on a GPU as far as the limit allows; on the CPU on disk, each part but for its stage
};

/// \throws Error invalid_input unless `name` is auto, resident or offload
MemoryMode parse_memory_mode(std::string_view name);

struct MemoryOptions {
  MemoryMode mode = MemoryMode::automatic;
  /// Whether nothing is drawn after the first drawing. Then each part is loaded when its stage comes and released after
  /// the stage, unless the mode is resident, or automatic on a GPU that has room for all parts.
  bool one_drawing = false;
  /// Bytes of GPU memory that the process may take. Without a limit the process takes all that is free, and with
  /// offload kOffloadLimitBytes.
  std::optional<size_t> limit_bytes{};

  static constexpr size_t kOffloadLimitBytes = size_t{12} << 30;
};

/// \return the options for `ranks` of a process that share the weights on `device`. Several ranks on a GPU have the
/// weights resident, because a block cannot visit the GPU at each rank's own time.
/// \throws Error invalid_input for several ranks that are to stream, and for a limit on the CPU
MemoryOptions resolve_memory(const MemoryOptions& asked, Device device, int64_t ranks);

/// Where a part's weights are kept, and what they take there.
struct PartMemory {
  WeightPlacement placement{};
  size_t device_bytes = 0;  ///< with the slots of streamed blocks
  size_t host_bytes = 0;    ///< of pinned memory

  size_t blocks_streamed() const;
};

/// \return the part with `streamed` of its blocks in host memory, and with the table there if `table_on_host`. Blocks
/// that are used once a prompt go first. Of the other blocks every so many go, so that each block travels while the
/// blocks before it compute.
PartMemory place_part(const WeightSizes& sizes, bool table_on_host, size_t streamed);

/// A part whose weights may be streamed.
struct PartNeeds {
  std::string_view name;  ///< as messages write it
  const WeightSizes& sizes;
  bool each_step = false;    ///< whether it runs in every denoising step
  size_t adapter_bytes = 0;  ///< of what adapters add beside its weights, all of it on the device
  bool is_used = true;       ///< else no drawing loads it, and it has no room
};

/// What must fit onto a GPU.
struct MemoryNeeds {
  Device device;
  std::vector<PartNeeds> parts;
  bool one_at_a_time = false;  ///< whether parts are released before those of the next stage are loaded
  size_t scratch_bytes = 0;    ///< of drawings
  size_t reserve_bytes = 0;    ///< to stay free
};

struct MemoryPlan {
  std::vector<PartMemory> parts;  ///< in the order of MemoryNeeds::parts

  bool streams() const;
  friend bool operator==(const MemoryPlan& a, const MemoryPlan& b) {
    return std::ranges::equal(a.parts, b.parts, {}, &PartMemory::placement, &PartMemory::placement);
  }
};

/// \return the plan in which all of the parts' weights stay on the device.
MemoryPlan resident_plan(std::span<const PartNeeds> parts);

/// \return whether `plan` leaves room for all else in `available_bytes`.
bool has_room(const MemoryPlan& plan, const MemoryNeeds& needs, size_t available_bytes);
/// \return whether plan_memory() finds a plan.
bool can_plan(MemoryMode mode, const MemoryNeeds& needs, size_t available_bytes);

/// Divides `available_bytes` of a GPU. Parts that run in every step get room before the other parts.
/// \param mode resident: nothing is streamed.
/// \throws Error out_of_memory saying what is needed at least and what there is
MemoryPlan plan_memory(MemoryMode mode, const MemoryNeeds& needs, size_t available_bytes);

/// \return a line for the log that says where all bytes go.
std::string describe(const MemoryPlan& plan, const MemoryNeeds& needs, size_t available_bytes);

}  // namespace nostos
