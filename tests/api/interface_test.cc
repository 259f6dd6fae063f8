// Tests the C++ interface: values in and out, and what is thrown.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <nostos.hpp>
#include <stdexcept>

namespace {

const std::string kModel = std::string(NOSTOS_SOURCE_DIR) + "/tests/data/tiny/diffusers_test";

nostos::Options options() { return {.model_path = kModel, .device = "cpu", .precision = "f32"}; }

nostos::Request request() {
  return {.prompt = "two red apples", .height = 24, .width = 32, .num_inference_steps = 2, .guidance_scale = 3};
}

std::vector<uint8_t> pixels(const nostos::Result& result, int64_t index = 0) {
  const nostos::ImageView image = result.image(index);
  return {image.rgb.begin(), image.rgb.end()};
}

TEST(Interface, DrawsWhatARequestAsksFor) {
  nostos::Pipeline pipeline(options());
  nostos::Request two = request();
  two.num_outputs = 2;
  two.seed = 7;
  const nostos::Result result = pipeline.generate(two);
  ASSERT_EQ(result.size(), 2);
  EXPECT_EQ(result.image(0).height, 24);
  EXPECT_EQ(result.image(1).width, 32);
  EXPECT_EQ(result.seed(1), 8u);
  EXPECT_NE(pixels(result, 0), pixels(result, 1));
  int64_t shape[4] = {};
  const std::span<const float> latents = result.latents(1, shape);
  EXPECT_EQ(latents.size(), static_cast<size_t>(shape[1] * shape[2] * shape[3]));
  EXPECT_NE(result.record(1).find("\"seed\":8"), std::string::npos) << result.record(1);
  EXPECT_NE(result.report().find("\"step_ms\""), std::string::npos);
  EXPECT_THROW(result.image(2), std::out_of_range);
  EXPECT_THROW(result.record(-1), std::out_of_range);
}

TEST(Interface, WritesTheBytesThatItEncodes) {
  nostos::Pipeline pipeline(options());
  const nostos::Result result = pipeline.generate(request());
  const std::string path = testing::TempDir() + "interface_written.webp";
  result.write(0, path);
  std::ifstream file(path, std::ios::binary);
  const std::vector<uint8_t> written{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(written, result.encode(0, "webp"));
  EXPECT_NE(result.encode(0), written);
  EXPECT_THROW(result.encode(0, "bmp"), nostos::Error);
  EXPECT_THROW(result.write(1, path), nostos::Error);
  std::remove(path.c_str());
}

TEST(Interface, PixelsBeginADrawingAsTheirFileDoes) {
  nostos::Pipeline pipeline(options());
  const nostos::Result first = pipeline.generate(request());
  const std::string path = testing::TempDir() + "interface_first.png";
  first.write(0, path);
  nostos::Request by_file = request(), by_pixels = request(), masked = request();
  by_file.strength = by_pixels.strength = masked.strength = 0.5;
  by_file.images = {path};
  by_pixels.images = {first.image(0)};
  const std::vector<uint8_t> white(24 * 32 * 3, 255), black(24 * 32 * 3, 0);
  masked.images = {first.image(0)};
  masked.mask_image = nostos::ImageView{black, 24, 32};
  const std::vector<uint8_t> drawn = pixels(pipeline.generate(by_file));
  EXPECT_EQ(drawn, pixels(pipeline.generate(by_pixels)));
  EXPECT_NE(drawn, pixels(first));
  EXPECT_NE(drawn, pixels(pipeline.generate(masked)));
  masked.mask_image = nostos::ImageView{white, 24, 32};
  EXPECT_EQ(drawn, pixels(pipeline.generate(masked)));
  masked.mask_image = nostos::ImageView{white, 24, 31};
  EXPECT_THROW(pipeline.generate(masked), nostos::Error);
  std::remove(path.c_str());
}

TEST(Interface, TellsOfStepsAndPreviewsAndChangesNoBit) {
  nostos::Pipeline pipeline(options());
  std::vector<std::string> stages;
  std::vector<int64_t> steps, previews;
  nostos::Progress progress;
  progress.on_stage = [&](const char* stage) { stages.push_back(stage); };
  progress.on_step = [&](int64_t step, int64_t all, double) {
    EXPECT_EQ(all, 2);
    steps.push_back(step);
  };
  progress.on_preview = [&](int64_t index, int64_t step, nostos::ImageView preview) {
    EXPECT_EQ(index, 0);
    EXPECT_EQ(preview.rgb.size(), static_cast<size_t>(preview.height * preview.width * 3));
    previews.push_back(step);
  };
  EXPECT_EQ(pixels(pipeline.generate(request(), progress)), pixels(pipeline.generate(request())));
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(previews, std::vector<int64_t>{1});
  EXPECT_EQ(stages.back(), "decode");
}

TEST(Interface, WhatACallbackThrowsEndsTheDrawingAndComesOut) {
  nostos::Options two_ranks = options();
  two_ranks.num_gpus = 2;
  for (const nostos::Options& each : {options(), two_ranks}) {
    nostos::Pipeline pipeline(each);
    nostos::Progress progress;
    progress.on_step = [](int64_t, int64_t, double) { throw std::domain_error("enough"); };
    EXPECT_THROW(pipeline.generate(request(), progress), std::domain_error);
    EXPECT_EQ(pipeline.generate(request()).size(), 1) << "the pipeline goes on";
  }
}

TEST(Interface, ACancelThatIsSetEndsDrawingsBeforeTheyBegin) {
  nostos::Pipeline pipeline(options());
  const nostos::Cancel cancel;
  cancel.set();
  EXPECT_THROW(pipeline.generate(request(), {}, cancel), nostos::Cancelled);
}

TEST(Interface, PipelinesLogToTheirOwnFunctions) {
  std::vector<std::string> first, second;
  nostos::Options loud = options();
  loud.num_gpus = 2;
  loud.log_level = nostos::LogLevel::debug;
  loud.on_log = [&](nostos::LogLevel, const std::string& message) { first.push_back(message); };
  nostos::Options warned = options();
  warned.log_level = nostos::LogLevel::warning;
  warned.on_log = [&](nostos::LogLevel level, const std::string& message) {
    EXPECT_GE(level, nostos::LogLevel::warning);
    second.push_back(message);
  };
  testing::internal::CaptureStderr();
  {
    nostos::Pipeline one(loud), other(warned), silent(options());
    nostos::Request tagged = request();
    tagged.prompt = "an apple <lora:detail:0.8>";
    other.generate(tagged);
    silent.generate(tagged);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_FALSE(first.empty());
  ASSERT_EQ(second.size(), 1u);
  EXPECT_NE(second[0].find("<lora:"), std::string::npos) << second[0];
}

TEST(Interface, ErrorsSayWhatIsWrong) {
  const auto status = [](const auto& work) {
    try {
      work();
    } catch (const nostos::Error& error) {
      return error.status();
    }
    return NOSTOS_OK;
  };
  nostos::Options nowhere = options(), unknown = options(), uneven = options();
  nowhere.model_path = "/nowhere";
  unknown.precision = "f8";
  uneven.num_gpus = 3;
  uneven.ring_degree = 2;
  EXPECT_EQ(status([&] { nostos::Pipeline pipeline(nowhere); }), NOSTOS_MODEL);
  EXPECT_EQ(status([&] { nostos::Pipeline pipeline(unknown); }), NOSTOS_INVALID_INPUT);
  EXPECT_EQ(status([&] { nostos::Pipeline pipeline(uneven); }), NOSTOS_INVALID_INPUT);
  nostos::Pipeline pipeline(options());
  const auto refused = [&](const nostos::Request& wrong) { return status([&] { pipeline.generate(wrong); }); };
  nostos::Request high = request(), blurred = request(), no_lora = request(), controlled = request();
  high.height = -1;
  blurred.mask_blur = 2;
  no_lora.loras = {{"/nowhere.safetensors"}};
  controlled.control_scale = 0.5;
  for (const nostos::Request& wrong : {high, blurred, controlled}) EXPECT_EQ(refused(wrong), NOSTOS_INVALID_INPUT);
  EXPECT_NE(refused(no_lora), NOSTOS_OK);
  EXPECT_EQ(refused(request()), NOSTOS_OK);
}

}  // namespace
