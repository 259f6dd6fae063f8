// Tests that a GPU lost in the middle of a drawing ends the process with a clear error. Each case is a process of its
// own, which can do nothing else afterwards.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <optional>
#include <vector>

#include "base/error.h"
#include "cuda/drawing.h"
#include "cuda/fault.h"
#include "pipeline/engine.h"

namespace nostos::test {
namespace {

/// \return the kind of what `body` throws, whose message goes to standard error.
template <class Body>
std::optional<ErrorKind> kind_of_failure(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.kind();
  }
  return std::nullopt;
}

/// Loses the GPU after the second step of a drawing, tries once more, and ends as a program does.
[[noreturn]] void draw_on_a_gpu_that_fails(const Parallelism& parallelism) {
  int code = 0;
  {
    EngineOptions options;
    options.model = model_dir("mini");
    options.device = {DeviceKind::cuda, 0};
    options.parallelism = parallelism;
    Engine engine(options);
    Context other(options.device, 1);
    const GenerationRequest request = beach(256, 256, 50, 0);
    engine.generate(request);
    const bool was_there = engine.lost_places().empty();
    Progress progress;
    progress.on_step = [&other](int64_t step, int64_t, double) {
      if (step == 2) lose_device(other);
    };
    const auto first = kind_of_failure([&] { engine.generate(request, progress); });
    const std::vector<int> lost = engine.lost_places();
    const auto again = kind_of_failure([&] { engine.generate(request); });
    const auto anew = kind_of_failure([&] { Engine{options}; });
    const bool is_told = was_there && first == ErrorKind::device_lost && again == ErrorKind::device_lost &&
                         anew.has_value() && std::ssize(lost) == parallelism.ranks();
    code = is_told ? exit_code(*first) : 99;
    if (anew && exit_code(*anew) != 1) code = 98;
  }
  std::exit(code);
}

class LostDevice : public testing::TestWithParam<int> {
 protected:
  LostDevice() { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_P(LostDevice, EndsTheProcessWithAClearError) {
  EXPECT_EXIT(draw_on_a_gpu_that_fails({.ulysses = GetParam()}), testing::ExitedWithCode(1),
              "error: .*device is lost.*started again");
}

INSTANTIATE_TEST_SUITE_P(Ranks, LostDevice, testing::Values(1, 2));

}  // namespace
}  // namespace nostos::test
