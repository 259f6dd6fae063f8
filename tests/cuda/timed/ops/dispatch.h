// Sets events around each op: this header in the place of the library's times every op while record() is on.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "device/context.h"
#include "device/stopwatch.h"
#include "ops/conv.h"
#include "ops/device_op.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// The ops of a decode while they are being timed.
class Record {
 public:
  bool on = false;

  void add(std::string label, Stopwatch watch) { runs_.emplace_back(std::move(label), std::move(watch)); }

  /// Prints each label's runs and their sum, the longest first.
  void print() {
    struct Sum {
      double ms = 0;
      int64_t count = 0;
    };
    std::map<std::string, Sum> sums;
    double total_ms = 0;
    for (const auto& [label, watch] : runs_) {
      Sum& sum = sums[label];
      sum.ms += watch.ms();
      ++sum.count;
      total_ms += watch.ms();
    }
    std::vector<std::pair<std::string, Sum>> sorted(sums.begin(), sums.end());
    std::ranges::sort(sorted, std::greater{}, [](const auto& entry) { return entry.second.ms; });
    for (const auto& [label, sum] : sorted) fmt::print("{:>9.4f} ms in {:>2}  {}\n", sum.ms, sum.count, label);
    fmt::print("{:>9.4f} ms in all, op by op\n", total_ms);
    runs_.clear();
  }

 private:
  std::vector<std::pair<std::string, Stopwatch>> runs_;
};

inline Record& record() {
  static Record made;
  return made;
}

/// \return the op's name, which the compiler knows.
template <auto kOp>
std::string name_of_op() {
  const std::string_view signature = __PRETTY_FUNCTION__;
  const std::string_view from = signature.substr(signature.find("kOp = ") + 6);
  const std::string_view whole = from.substr(0, from.find_first_of(";]"));
  return std::string(whole.substr(whole.rfind(':') + 1));
}

template <auto kOp, class... Args>
typename Op<kOp>::Given run_on(Device device, Args&&... args) {
  return device.kind == DeviceKind::cuda ? Op<kOp>::template on<DeviceKind::cuda>(args...)
                                         : Op<kOp>::template on<DeviceKind::cpu>(args...);
}

template <auto kOp, class... Args>
typename Op<kOp>::Given dispatch_to_gpu(Context& ctx, const Args&... args) {
  ctx.bind_thread();
  if (!record().on) return Op<kOp>::template on<DeviceKind::cuda>(ctx, args...);
  if constexpr (std::is_void_v<typename Op<kOp>::Given>) {
    std::string label = name_of_op<kOp>();
    const auto describe = [&]<class Arg>(const Arg& arg) {
      if constexpr (std::is_convertible_v<Arg, ConstView>) {
        const ConstView view = arg;
        if (view && view.shape().rank() > 1) label += fmt::format(" {}{}", name(view.dtype()), to_string(view.shape()));
      } else if constexpr (std::is_same_v<Arg, Conv2d>) {
        label += fmt::format(" kernel {}", arg.kernel);
      } else if constexpr (std::is_same_v<Arg, ConvOptions>) {
        label += arg.accumulate ? " +" : "";
      } else if constexpr (std::is_same_v<Arg, bool>) {
        label += arg ? " +" : "";
      }
    };
    (describe(args), ...);
    Stopwatch watch(ctx);
    Op<kOp>::template on<DeviceKind::cuda>(ctx, args...);
    watch.end(ctx);
    record().add(std::move(label), std::move(watch));
  } else {
    return Op<kOp>::template on<DeviceKind::cuda>(ctx, args...);
  }
}

template <auto kOp, class... Args>
typename Op<kOp>::Given dispatch(Context& ctx, const Args&... args) {
  if (ctx.device().kind == DeviceKind::cuda) return dispatch_to_gpu<kOp>(ctx, args...);
  ctx.bind_thread();
  return Op<kOp>::template on<DeviceKind::cpu>(ctx, args...);
}

}  // namespace nostos::ops
