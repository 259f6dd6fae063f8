// Tests the noise levels against diffusers' own values, and the scheduler configs that are refused.
#include "families/schedule.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"

namespace nostos {
namespace {

void expect_same_bits(std::span<const float> actual, ConstView expected, const std::string& what) {
  ASSERT_EQ(static_cast<int64_t>(actual.size()), expected.elements()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(expected.data<float>()[i]))
        << what << "[" << i << "]: " << actual[i] << " instead of " << expected.data<float>()[i];
  }
}

TEST(Schedule, EqualsDiffusersBitForBit) {
  const SafetensorsFile file(NOSTOS_SOURCE_DIR "/tests/data/schedule.safetensors");
  int compared = 0;
  for (const auto& [name, info] : file.tensors()) {
    double shift = 0;
    int steps = 0;
    if (std::sscanf(name.c_str(), "shift%lf_steps%d_sigmas", &shift, &steps) != 2 || !name.ends_with("_sigmas"))
      continue;
    const Schedule schedule = make_schedule({.shift = shift}, steps);
    expect_same_bits(schedule.sigmas, file.tensor(name), name);
    const std::string times = name.substr(0, name.size() - 6) + "t";
    expect_same_bits(schedule.times, file.tensor(times), times);
    ++compared;
  }
  EXPECT_GE(compared, 30);
}

/// FLUX.2-klein's, whose shift depends on the tokens, 16 x 16 pixels each, and on the steps.
class KleinSchedule : public testing::Test {
 protected:
  void expect_equal(const std::string& name, int64_t height, int64_t width, std::span<const double> sigmas) const {
    const int64_t steps = file_.tensor(name + "_times").elements();
    const Schedule made = make_empirical_schedule({}, steps, sigmas, height / 16 * (width / 16));
    expect_same_bits(made.sigmas, file_.tensor(name + "_sigmas"), name + "_sigmas");
    expect_same_bits(made.times, file_.tensor(name + "_times"), name + "_times");
    EXPECT_TRUE(made.predicts_noise);
    for (size_t i = 0; i < made.elapsed.size(); ++i) EXPECT_EQ(made.elapsed[i], 1.0f - made.sigmas[i]) << name;
  }
  SafetensorsFile file_{NOSTOS_SOURCE_DIR "/tests/data/schedule_klein.safetensors"};
};

TEST_F(KleinSchedule, EqualsDiffusersBitForBit) {
  int of_steps = 0, of_levels = 0;
  for (const auto& [name, info] : file_.tensors()) {
    if (!name.ends_with("_mu")) continue;
    const std::string stem = name.substr(0, name.size() - 3);
    long height = 0, width = 0;
    ASSERT_EQ(std::sscanf(name.c_str(), "%ldx%ld_", &height, &width), 2) << name;
    if (stem.find("_custom") == std::string::npos) {
      expect_equal(stem, height, width, {});
      ++of_steps;
    } else {
      const ConstView given = file_.tensor(stem + "_given");
      expect_equal(stem, height, width, {given.data<double>(), static_cast<size_t>(given.elements())});
      ++of_levels;
    }
  }
  EXPECT_EQ(of_steps, 81);
  EXPECT_EQ(of_levels, 8);
}

// A step goes from the noise's side: what the model predicts leads there.
TEST(Schedule, AStepGoesTheWayThatTheModelPoints) {
  Schedule schedule{.sigmas = {1.0f, 0.75f, 0.0f}, .times = {1, 2}, .elapsed = {0, 0.25f}};
  EXPECT_EQ(schedule.step_delta(0), -0.25f);
  EXPECT_EQ(schedule.clean_delta(0), -0.75f);
  schedule.predicts_noise = true;
  EXPECT_EQ(schedule.step_delta(0), 0.25f);
  EXPECT_EQ(schedule.step_delta(1), 0.75f);
  EXPECT_EQ(schedule.clean_delta(0), 0.75f);
}

TEST(Schedule, OwnLevelsAreShiftedToo) {
  const std::vector<double> levels = {1.0, 0.5, 0.25};
  const Schedule schedule = make_schedule({.shift = 3}, levels);
  EXPECT_EQ(schedule.sigmas, (std::vector<float>{1.0f, 0.75f, 0.5f, 0.0f}));
  EXPECT_EQ(schedule.times, (std::vector<float>{0.0f, 0.25f, 0.5f}));
}

TEST(Schedule, DefaultLevelsGivenByHandAreTheSameRun) {
  const Schedule own = make_schedule({.shift = 3}, std::vector<double>{1.0, 0.75, 0.5, 0.25});
  const Schedule usual = make_schedule({.shift = 3}, 4);
  EXPECT_EQ(own.sigmas, usual.sigmas);
  EXPECT_EQ(own.times, usual.times);
}

TEST(Schedule, DescendsToZeroForAnyLength) {
  for (int64_t steps : {1, 2, 7, 100, 1000}) {
    const Schedule schedule = make_schedule({.shift = 3}, steps);
    ASSERT_EQ(static_cast<int64_t>(schedule.times.size()), steps);
    ASSERT_EQ(static_cast<int64_t>(schedule.sigmas.size()), steps + 1);
    EXPECT_EQ(schedule.sigmas.front(), 1.0f);
    EXPECT_EQ(schedule.sigmas.back(), 0.0f);
    for (size_t i = 1; i < schedule.sigmas.size(); ++i) EXPECT_LT(schedule.sigmas[i], schedule.sigmas[i - 1]);
  }
}

TEST(Schedule, NoStepsIsABug) {
  EXPECT_THROW(make_schedule({}, int64_t{0}), Error);
  EXPECT_THROW(make_empirical_schedule({}, 0, {}, 4096), Error);
}

class SchedulerConfigFile : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& json) {
    const std::string test = testing::UnitTest::GetInstance()->current_test_info()->name();
    const std::filesystem::path file =
        std::filesystem::path(testing::TempDir()) / ("nostos_scheduler_" + test + ".json");
    std::ofstream(file) << json;
    return file;
  }
  void expect_refused(const std::string& json, const std::string& named, Shifting shifting = Shifting::fixed) {
    try {
      load_scheduler_config(write(json), shifting);
      FAIL() << "taken: " << json;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      EXPECT_NE(std::string(error.what()).find(named), std::string::npos) << error.what();
    }
  }
};

TEST_F(SchedulerConfigFile, ReadsShiftAndTrainTimesteps) {
  const SchedulerConfig config = load_scheduler_config(write(
      R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.36.0", "num_train_timesteps": 500,
          "shift": 2.5, "use_dynamic_shifting": false, "shift_terminal": null, "base_shift": 0.5,
          "time_shift_type": "exponential"})"));
  EXPECT_EQ(config.num_train_timesteps, 500);
  EXPECT_EQ(config.shift, 2.5);
}

TEST_F(SchedulerConfigFile, DefaultsAreThoseOfDiffusers) {
  const SchedulerConfig config = load_scheduler_config(write(R"({"_class_name": "FlowMatchEulerDiscreteScheduler"})"));
  EXPECT_EQ(config.num_train_timesteps, 1000);
  EXPECT_EQ(config.shift, 1.0);
}

TEST_F(SchedulerConfigFile, OtherSchedulersAreRefused) {
  expect_refused(R"({"_class_name": "DDIMScheduler"})", "DDIMScheduler");
  EXPECT_EQ(load_scheduler_config(write(R"({"shift": 3.0})")).shift, 3.0) << "the class is what model_index.json says";
  EXPECT_EQ(load_scheduler_config(write("{}")).num_train_timesteps, 1000);
}

TEST_F(SchedulerConfigFile, OptionsThatChangeTheScheduleAreRefused) {
  for (const std::string option : {"use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas",
                                   "use_beta_sigmas", "invert_sigmas", "stochastic_sampling"}) {
    expect_refused(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", ")" + option + R"(": true})", option);
  }
  expect_refused(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 0.1})", "shift_terminal");
}

TEST_F(SchedulerConfigFile, DynamicShiftingIsExponential) {
  const SchedulerConfig config = load_scheduler_config(
      write(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true, "shift": 3.0,
               "num_train_timesteps": 500, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
               "max_image_seq_len": 4096, "time_shift_type": "exponential", "shift_terminal": null})"),
      Shifting::dynamic);
  EXPECT_EQ(config.num_train_timesteps, 500);
  EXPECT_NO_THROW(load_scheduler_config(write(R"({"use_dynamic_shifting": true})"), Shifting::dynamic));
  expect_refused(R"({"use_dynamic_shifting": true, "time_shift_type": "linear"})", "time_shift_type",
                 Shifting::dynamic);
  expect_refused(R"({"use_dynamic_shifting": true, "time_shift_type": 3})", "time_shift_type", Shifting::dynamic);
  expect_refused(R"({"use_dynamic_shifting": false})", "dynamic shifting, so it must be true", Shifting::dynamic);
  expect_refused("{}", "use_dynamic_shifting", Shifting::dynamic);
  expect_refused(R"({"use_dynamic_shifting": true})", "static shift alone, so it must be false");
  EXPECT_NO_THROW(load_scheduler_config(write(R"({"time_shift_type": "linear"})"))) << "of no meaning without it";
  for (const std::string option :
       {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas", "stochastic_sampling"})
    expect_refused(R"({"use_dynamic_shifting": true, ")" + option + R"(": true})", option, Shifting::dynamic);
  expect_refused(R"({"use_dynamic_shifting": true, "shift_terminal": 0.1})", "shift_terminal", Shifting::dynamic);
}

TEST_F(SchedulerConfigFile, WrongValuesAreRefused) {
  expect_refused(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0})", "shift");
  expect_refused(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": "3"})", "shift");
  expect_refused(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 0})",
                 "num_train_timesteps");
  expect_refused(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1.5})",
                 "num_train_timesteps");
}

TEST_F(SchedulerConfigFile, MissingFileIsAModelError) {
  try {
    load_scheduler_config("/nonexistent/scheduler_config.json");
    FAIL() << "a missing file was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
  }
}

}  // namespace
}  // namespace nostos
