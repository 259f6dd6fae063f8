// Implements metrics.
#include "apps/server/metrics.h"

#include <fmt/format.h>

#include <array>

namespace nostos::server {
namespace {

constexpr std::array<double, 16> kBounds{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                         0.25,   0.5,   1,      2.5,   5,    10,    60,   600};

std::string braced(const std::string& labels, const std::string& more = {}) {
  const std::string all = labels + (labels.empty() || more.empty() ? "" : ",") + more;
  return all.empty() ? all : "{" + all + "}";
}

}  // namespace

std::string label(std::string_view key, std::string_view value) { return fmt::format("{}=\"{}\"", key, value); }

void Metrics::add(const std::string& name, const std::string& labels, double amount) {
  const std::lock_guard lock(mutex_);
  counters_[name][labels] += amount;
}

void Metrics::observe(const std::string& name, const std::string& labels, double seconds) {
  const std::lock_guard lock(mutex_);
  Histogram& histogram = histograms_[name][labels];
  histogram.buckets.resize(kBounds.size());
  for (size_t i = 0; i < kBounds.size(); ++i) histogram.buckets[i] += seconds <= kBounds[i] ? 1 : 0;
  ++histogram.count;
  histogram.sum += seconds;
}

std::string Metrics::text(const std::map<std::string, double>& gauges) const {
  const std::lock_guard lock(mutex_);
  std::string text;
  for (const auto& [name, value] : gauges) text += fmt::format("# TYPE {0} gauge\n{0} {1}\n", name, value);
  for (const auto& [name, family] : counters_) {
    text += fmt::format("# TYPE {} counter\n", name);
    for (const auto& [labels, value] : family) text += fmt::format("{}{} {}\n", name, braced(labels), value);
  }
  for (const auto& [name, family] : histograms_) {
    text += fmt::format("# TYPE {} histogram\n", name);
    for (const auto& [labels, histogram] : family) {
      for (size_t i = 0; i < kBounds.size(); ++i) {
        const std::string bound = fmt::format("le=\"{}\"", kBounds[i]);
        text += fmt::format("{}_bucket{} {}\n", name, braced(labels, bound), histogram.buckets[i]);
      }
      text += fmt::format("{}_bucket{} {}\n", name, braced(labels, "le=\"+Inf\""), histogram.count);
      text += fmt::format("{}_sum{} {}\n", name, braced(labels), histogram.sum);
      text += fmt::format("{}_count{} {}\n", name, braced(labels), histogram.count);
    }
  }
  return text;
}

}  // namespace nostos::server
