// Tests the C interface's fields, errors and handles, and that what it draws is what the engine draws.
#include <gtest/gtest.h>
#include <nostos.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/engine.h"

namespace {

const std::string kModel = std::string(NOSTOS_SOURCE_DIR) + "/tests/data/tiny/diffusers_test";

template <auto free>
struct Free {
  template <class Handle>
  void operator()(Handle* handle) const {
    free(handle);
  }
};
template <class Handle, auto free>
using Owned = std::unique_ptr<Handle, Free<free>>;
using Options = Owned<nostos_options, nostos_options_free>;
using Pipeline = Owned<nostos_pipeline, nostos_pipeline_free>;
using Request = Owned<nostos_request, nostos_request_free>;
using Result = Owned<nostos_result, nostos_result_free>;

/// Expects a function to fail with a message that holds `part`.
template <class Call>
void expect_error(const Call& call, nostos_status status, const std::string& part) {
  nostos_error* raw = nullptr;
  EXPECT_EQ(call(&raw), status);
  const Owned<nostos_error, nostos_error_free> error(raw);
  ASSERT_NE(error, nullptr);
  EXPECT_EQ(nostos_error_status(error.get()), status);
  EXPECT_NE(std::string(nostos_error_message(error.get())).find(part), std::string::npos)
      << nostos_error_message(error.get());
}

Pipeline open() {
  const Options options(nostos_options_new());
  EXPECT_EQ(nostos_options_set_text(options.get(), "model_path", kModel.c_str(), nullptr), NOSTOS_OK);
  EXPECT_EQ(nostos_options_set_text(options.get(), "device", "cpu", nullptr), NOSTOS_OK);
  EXPECT_EQ(nostos_options_set_text(options.get(), "precision", "f32", nullptr), NOSTOS_OK);
  nostos_pipeline* pipeline = nullptr;
  nostos_error* error = nullptr;
  EXPECT_EQ(nostos_pipeline_open(options.get(), &pipeline, &error), NOSTOS_OK) << nostos_error_message(error);
  return Pipeline(pipeline);
}

Request small_request() {
  Request request(nostos_request_new());
  EXPECT_EQ(nostos_request_set_text(request.get(), "prompt", "two red apples", nullptr), NOSTOS_OK);
  for (const auto& [field, value] : {std::pair{"height", 24}, {"width", 32}, {"num_inference_steps", 2}})
    EXPECT_EQ(nostos_request_set_integer(request.get(), field, value, nullptr), NOSTOS_OK);
  EXPECT_EQ(nostos_request_set_real(request.get(), "guidance_scale", 3, nullptr), NOSTOS_OK);
  return request;
}

TEST(Api, DrawsWhatTheEngineDraws) {
  const Pipeline pipeline = open();
  const Request request = small_request();
  nostos_result* raw = nullptr;
  ASSERT_EQ(nostos_generate(pipeline.get(), request.get(), &raw, nullptr), NOSTOS_OK);
  const Result result(raw);
  nostos::EngineOptions options;
  options.model = std::filesystem::path(kModel);
  options.precision = nostos::Precision::f32;
  nostos::GenerationRequest same;
  same.prompt = "two red apples";
  same.height = 24;
  same.width = 32;
  same.num_inference_steps = 2;
  same.guidance_scale = 3;
  const nostos::Generation made = nostos::Engine(options).generate(same);
  const nostos_image image = nostos_result_image(result.get(), 0);
  ASSERT_NE(image.rgb, nullptr);
  EXPECT_EQ(std::vector<uint8_t>(image.rgb, image.rgb + image.height * image.width * 3), made.pictures[0].image.rgb);
  EXPECT_EQ(nostos_result_seed(result.get(), 0), 42u);
}

TEST(Api, FieldsThatAreUnknownAreNamed) {
  const Options options(nostos_options_new());
  const Request request(nostos_request_new());
  expect_error([&](auto error) { return nostos_options_set_text(options.get(), "modle_path", "x", error); },
               NOSTOS_INVALID_INPUT, "'modle_path' is no field that takes a text; these are model_path, ");
  expect_error([&](auto error) { return nostos_request_set_integer(request.get(), "prompt", 1, error); },
               NOSTOS_INVALID_INPUT, "height, width");
  expect_error([&](auto error) { return nostos_request_set_real(request.get(), "height", 1, error); },
               NOSTOS_INVALID_INPUT, "'height'");
  expect_error([&](auto error) { return nostos_request_set_reals(request.get(), "sigma", nullptr, 0, error); },
               NOSTOS_INVALID_INPUT, "sigmas");
  expect_error([&](auto error) { return nostos_request_add_image_file(request.get(), "image", "/no.png", error); },
               NOSTOS_INVALID_INPUT, "/no.png");
}

TEST(Api, ValuesThatNoModelTakesAreNamed) {
  const Options options(nostos_options_new());
  const Request request(nostos_request_new());
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  expect_error([&](auto error) { return nostos_options_set_integer(options.get(), "threads", -1, error); },
               NOSTOS_INVALID_INPUT, "threads is -1");
  expect_error([&](auto error) { return nostos_options_set_integer(options.get(), "base_model", 2, error); },
               NOSTOS_INVALID_INPUT, "base_model is 2");
  expect_error([&](auto error) { return nostos_options_set_real(options.get(), "memory_limit", kNan, error); },
               NOSTOS_INVALID_INPUT, "memory_limit is nan");
  expect_error([&](auto error) { return nostos_request_set_text(request.get(), "rng", "dice", error); },
               NOSTOS_INVALID_INPUT, "dice");
  expect_error([&](auto error) { return nostos_request_set_text(request.get(), "image_fit", "", error); },
               NOSTOS_INVALID_INPUT, "crop");
  const uint8_t pixel[3] = {};
  for (const nostos_image image :
       {nostos_image{nullptr, 1, 1}, {pixel, 0, 1}, {pixel, 1, -1}, {pixel, INT64_MAX, INT64_MAX}})
    expect_error([&](auto error) { return nostos_request_add_image(request.get(), "image", image, error); },
                 NOSTOS_INVALID_INPUT, "the image");
  const Pipeline pipeline = open();
  const Request wrong = small_request();
  ASSERT_EQ(nostos_request_set_real(wrong.get(), "guidance_scale", kNan, nullptr), NOSTOS_OK);
  nostos_result* result = reinterpret_cast<nostos_result*>(wrong.get());
  expect_error([&](auto error) { return nostos_generate(pipeline.get(), wrong.get(), &result, error); },
               NOSTOS_INVALID_INPUT, "guidance_scale");
  EXPECT_EQ(result, nullptr);
}

TEST(Api, NullIsRefusedAndFreed) {
  const Request request(nostos_request_new());
  expect_error([&](auto error) { return nostos_request_set_text(nullptr, "prompt", "x", error); }, NOSTOS_INVALID_INPUT,
               "null");
  expect_error([&](auto error) { return nostos_request_set_text(request.get(), nullptr, "x", error); },
               NOSTOS_INVALID_INPUT, "null");
  expect_error([&](auto error) { return nostos_request_set_text(request.get(), "prompt", nullptr, error); },
               NOSTOS_INVALID_INPUT, "null");
  expect_error([&](auto error) { return nostos_request_set_reals(request.get(), "sigmas", nullptr, 2, error); },
               NOSTOS_INVALID_INPUT, "null");
  expect_error([&](auto error) { return nostos_request_add_lora(request.get(), "", 1, error); }, NOSTOS_INVALID_INPUT,
               "empty");
  nostos_pipeline* pipeline = nullptr;
  nostos_result* result = nullptr;
  expect_error([&](auto error) { return nostos_pipeline_open(nullptr, &pipeline, error); }, NOSTOS_INVALID_INPUT,
               "null");
  expect_error([&](auto error) { return nostos_generate(nullptr, request.get(), &result, error); },
               NOSTOS_INVALID_INPUT, "null");
  EXPECT_EQ(nostos_pipeline_open(nullptr, nullptr, nullptr), NOSTOS_INVALID_INPUT);
  nostos_error_free(nullptr);
  nostos_options_free(nullptr);
  nostos_pipeline_free(nullptr);
  nostos_request_free(nullptr);
  nostos_cancel_free(nullptr);
  nostos_result_free(nullptr);
  nostos_bytes_free(nullptr);
}

TEST(Api, ACallAfterASuccessClearsTheError) {
  const Request request(nostos_request_new());
  nostos_error* error = nullptr;
  EXPECT_EQ(nostos_request_set_text(request.get(), "x", "x", &error), NOSTOS_INVALID_INPUT);
  nostos_error_free(error);
  EXPECT_EQ(nostos_request_set_text(request.get(), "prompt", "x", &error), NOSTOS_OK);
  EXPECT_EQ(error, nullptr);
}

TEST(Api, AnAnswerOfACallbackEndsTheDrawing) {
  const Pipeline pipeline = open();
  const Request request = small_request();
  int calls = 0;
  nostos_request_on_step(
      request.get(),
      [](void* user, int64_t, int64_t, double) {
        ++*static_cast<int*>(user);
        return 1;
      },
      &calls);
  nostos_result* result = nullptr;
  expect_error([&](auto error) { return nostos_generate(pipeline.get(), request.get(), &result, error); },
               NOSTOS_CANCELLED, "callback");
  EXPECT_EQ(calls, 1);
  nostos_request_on_step(request.get(), nullptr, nullptr);
  ASSERT_EQ(nostos_generate(pipeline.get(), request.get(), &result, nullptr), NOSTOS_OK);
  nostos_result_free(result);
}

TEST(Api, AFlagOutlivesItsHandle) {
  const Pipeline pipeline = open();
  const Request request = small_request();
  nostos_cancel* cancel = nostos_cancel_new();
  nostos_request_set_cancel(request.get(), cancel);
  nostos_cancel_set(cancel);
  EXPECT_EQ(nostos_cancel_is_set(cancel), 1);
  nostos_cancel_free(cancel);
  nostos_result* result = nullptr;
  EXPECT_EQ(nostos_generate(pipeline.get(), request.get(), &result, nullptr), NOSTOS_CANCELLED);
  nostos_request_set_cancel(request.get(), nullptr);
  ASSERT_EQ(nostos_generate(pipeline.get(), request.get(), &result, nullptr), NOSTOS_OK);
  nostos_result_free(result);
}

TEST(Api, SaysWhatAPipelineDraws) {
  const Pipeline pipeline = open();
  const std::string info = nostos_pipeline_info(pipeline.get());
  for (const char* part : {"\"precision\": \"f32\"", "\"size_multiple\": 4", "\"device\": \"cpu\"", "\"ranks\": 1"})
    EXPECT_NE(info.find(part), std::string::npos) << info;
}

TEST(Api, IndicesBeyondTheImagesGiveNothing) {
  const Pipeline pipeline = open();
  const Request request = small_request();
  nostos_result* raw = nullptr;
  ASSERT_EQ(nostos_generate(pipeline.get(), request.get(), &raw, nullptr), NOSTOS_OK);
  const Result result(raw);
  int64_t shape[4] = {};
  EXPECT_EQ(nostos_result_count(raw), 1);
  for (const int64_t index : {int64_t{-1}, int64_t{1}, INT64_MAX, INT64_MIN}) {
    EXPECT_EQ(nostos_result_image(raw, index).rgb, nullptr);
    EXPECT_EQ(nostos_result_record(raw, index), nullptr);
    EXPECT_EQ(nostos_result_latents(raw, index, shape), nullptr);
    EXPECT_EQ(nostos_result_seed(raw, index), 0u);
    expect_error([&](auto error) { return nostos_result_write(raw, index, "x.png", error); }, NOSTOS_INVALID_INPUT,
                 "no image");
  }
}

}  // namespace
