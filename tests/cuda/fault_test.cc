// Tests that a GPU lost in the middle of a drawing ends the process with a clear error. Each case is a process of its own,
// which can do nothing else afterwards.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "cuda/drawing.h"
#include "cuda/fault.h"
#include "pipeline/engine.h"

namespace nostos::test {
namespace {

/// \return the exit code of what `body` throws, whose message goes to standard error.
template <class Body>
int exit_code_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return exit_code(error.kind());
  }
  return 0;
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
    Progress progress;
    progress.on_step = [&other](int64_t step, int64_t, double) {
      if (step == 2) lose_device(other);
    };
    code = exit_code_of([&] { engine.generate(request, progress); });
    const int again = exit_code_of([&] { engine.generate(request); });
    const int anew = exit_code_of([&] { Engine{options}; });
    if (again != 1 || anew != 1) std::fprintf(stderr, "then %d and %d\n", again, anew);
    if (again != 1 || anew != 1) code = 99;
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
