// Owns counters and histograms in Prometheus' text format.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace nostos::server {

/// \return `key="value"`, as Metrics takes labels.
std::string label(std::string_view key, std::string_view value);

/// Any thread. `labels` are as the format has them, e.g. `status="completed"`, or empty.
class Metrics {
 public:
  void add(const std::string& name, const std::string& labels = {}, double amount = 1);
  /// Counts `seconds` in the histogram of that name.
  void observe(const std::string& name, const std::string& labels, double seconds);
  /// \return everything so far, and the gauges given.
  std::string text(const std::map<std::string, double>& gauges) const;

 private:
  struct Histogram {
    std::vector<uint64_t> buckets;
    uint64_t count = 0;
    double sum = 0;
  };
  template <class Value>
  using Family = std::map<std::string, std::map<std::string, Value>>;  // name, labels

  mutable std::mutex mutex_;
  Family<double> counters_;
  Family<Histogram> histograms_;
};

}  // namespace nostos::server
