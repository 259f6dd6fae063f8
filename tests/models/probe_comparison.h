// Owns the comparison of what a model reports with what the reference has under the same name.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "io/safetensors.h"
#include "models/golden.h"

namespace nostos::test {

inline constexpr double kProbeTolerance = 1e-4;  // measured: at most 2e-6

inline std::vector<int64_t> integers(ConstView view) {
  return {view.data<int64_t>(), view.data<int64_t>() + view.elements()};
}

/// Compares what the engine reports with the file's tensors of the same name; counts those compared.
class ProbeComparison {
 public:
  explicit ProbeComparison(const SafetensorsFile& file) : file_(file) {}

  void compare(const std::string& name, ConstView value) {
    if (!file_.tensors().contains(name)) return;
    ++compared_;
    EXPECT_LE(relative_error(value, file_.tensor(name)), kProbeTolerance) << name;
  }

  /// \param rows where the file's rows stand in `value`; the engine leaves out pad rows that nothing reads (final
  /// layer).
  void compare_rows(const std::string& name, ConstView value, const std::vector<int64_t>& rows) {
    if (!file_.tensors().contains(name)) return;
    ++compared_;
    const ConstView wanted = file_.tensor(name);
    ASSERT_EQ(wanted.shape()[0], static_cast<int64_t>(rows.size())) << name;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] >= value.shape()[0]) continue;
      EXPECT_LE(relative_error(value.rows(rows[i], 1), wanted.rows(static_cast<int64_t>(i), 1)), kProbeTolerance)
          << name << " row " << rows[i];
    }
  }
  int compared() const { return compared_; }

 private:
  const SafetensorsFile& file_;
  int compared_ = 0;
};

}  // namespace nostos::test
