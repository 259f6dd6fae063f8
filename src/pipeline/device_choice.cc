// Implements the choice of the devices.
#include "pipeline/device_choice.h"

#include <charconv>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "device/cuda/runtime.h"

namespace nostos {
namespace {

constexpr Device kCpu{DeviceKind::cpu, 0};

Device gpu(int64_t index) { return {DeviceKind::cuda, static_cast<int>(index)}; }

/// A name of the command line.
struct DeviceName {
  bool may_be_cpu = false;   ///< auto
  std::optional<int> index;  ///< of cuda:N
};

/// \return what a name other than "cpu" means; nothing for unknown ones.
std::optional<DeviceName> parse_name(std::string_view name) {
  constexpr std::string_view kCuda = "cuda";
  if (name == "auto") return DeviceName{true, {}};
  if (!name.starts_with(kCuda)) return {};
  name.remove_prefix(kCuda.size());
  if (name.empty()) return DeviceName{};
  int index = -1;
  const char* const end = name.data() + name.size();
  const auto [parsed_to, error] = std::from_chars(name.data() + 1, end, index);
  if (name.front() != ':' || error != std::errc{} || parsed_to != end || index < 0) return {};
  return DeviceName{false, index};
}

DeviceChoice choose_for_process(std::string_view name, std::optional<int> index, const DeviceUsers& users, int gpus) {
  require(
      !index, ErrorKind::invalid_input,
      "--device {} would be the GPU of all {} processes: with --device cuda each takes that of its place on its host",
      name, users.ranks);
  const bool has_own = users.is_shown_one && gpus == 1;
  require(
      has_own || gpus >= users.on_host, ErrorKind::invalid_input,
      "{} processes on this host want a GPU each and it has {}: start no more than that, or --device cpu; ranks that "
      "share a GPU are threads of one process, --num-gpus with --allow-shared-gpu",
      users.on_host, gpus);
  return {gpu(has_own ? 0 : users.place), true};
}

DeviceChoice choose_for_threads(std::optional<int> index, const DeviceUsers& users, int gpus) {
  if (!index && gpus >= users.ranks) return {gpu(0), true};
  require(users.may_share_gpu, ErrorKind::invalid_input,
          "{} ranks want a GPU each and {} {} GPU{}: draw with fewer, or let them share one with --allow-shared-gpu",
          users.ranks, index ? "--device names" : "this machine has", index ? 1 : gpus, index || gpus == 1 ? "" : "s");
  require(index || gpus == 1, ErrorKind::invalid_input,
          "{} ranks on {} GPUs: ranks have a GPU each or all share one; use --num-gpus {}, or name the one to share, "
          "--device cuda:0",
          users.ranks, gpus, gpus);
  return {gpu(index.value_or(0)), false};
}

}  // namespace

DeviceChoice choose_device(std::string_view name, const DeviceUsers& users, int gpus) {
  if (name == "cpu") return {kCpu};
  const std::optional<DeviceName> named = parse_name(name);
  require(named.has_value(), ErrorKind::invalid_input, "device '{}' is unknown; use auto, cpu, cuda or cuda:N", name);
  const bool several_processes = users.are_processes && users.ranks > 1;
  const bool enough = several_processes ? gpus >= users.on_host || (users.is_shown_one && gpus == 1) : gpus > 0;
  if (named->may_be_cpu && !enough) return {kCpu};
  if (users.ranks == 1) return {gpu(named->index.value_or(0))};
  return several_processes ? choose_for_process(name, named->index, users, gpus)
                           : choose_for_threads(named->index, users, gpus);
}

DeviceChoice choose_device(std::string_view name, const DeviceUsers& users) {
  int gpus = 0;
  if (name == "auto") {
    try {
      cuda::device_properties(0);
      gpus = cuda::device_count();
    } catch (const Error& error) {
      log_debug("draws on the CPU: {}", error.what());
    }
  } else if (parse_name(name)) {
    gpus = cuda::device_count();
  }
  const DeviceChoice choice = choose_device(name, users, gpus);
  if (choice.device.kind == DeviceKind::cpu) return choice;
  const int64_t used = choice.per_rank && !users.are_processes ? users.ranks : 1;
  const std::string& first = cuda::device_properties(choice.device.index).name;
  for (int64_t i = 1; i < used; ++i) {
    const int index = choice.device.index + static_cast<int>(i);
    require(
        cuda::device_properties(index).name == first, ErrorKind::device,
        "GPU {} is another one ({}) than GPU {} ({}): the picture would depend on which of them computes what; choose "
        "equal ones by CUDA_VISIBLE_DEVICES",
        index, cuda::device_properties(index).name, choice.device.index, first);
  }
  return choice;
}

int64_t equal_gpus(Device first) {
  if (first.kind == DeviceKind::cpu) return 1;
  const int gpus = cuda::device_count();
  const std::string& name = cuda::device_properties(first.index).name;
  int index = first.index + 1;
  while (index < gpus && cuda::device_properties(index).name == name) ++index;
  return index - first.index;
}

std::string device_name(Device device) {
  return device.kind == DeviceKind::cuda ? cuda::device_properties(device.index).name : "CPU";
}

}  // namespace nostos
