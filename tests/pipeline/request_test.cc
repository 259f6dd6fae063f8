// Tests defaults, limits and messages of requests.
#include "pipeline/request.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"

namespace nostos {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Expects that `request` is refused with a message that holds every one of `parts`.
void expect_refused(const GenerationRequest& request, std::initializer_list<const char*> parts,
                    const ModelLimits& limits = {}) {
  try {
    resolve(request, limits);
    FAIL() << "the request was taken; expected a complaint about " << *parts.begin();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    for (const char* part : parts) EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Request, EmptyFieldsTakeTheModelsDefaults) {
  const ModelLimits limits{
      .default_height = 512, .default_width = 768, .default_steps = 9, .default_guidance_scale = 4};
  const ResolvedRequest resolved = resolve({}, limits);
  EXPECT_EQ(resolved.request.height, 512);
  EXPECT_EQ(resolved.request.width, 768);
  EXPECT_EQ(resolved.request.num_inference_steps, 9);
  EXPECT_EQ(resolved.request.guidance_scale, 4);
  EXPECT_EQ(resolved.drawn_height, 512);
  EXPECT_EQ(resolved.drawn_width, 768);
}

TEST(Request, GivenFieldsWinOverDefaults) {
  const GenerationRequest request{
      .prompt = "A cat", .height = 256, .width = 320, .num_inference_steps = 3, .guidance_scale = 0.0};
  const ResolvedRequest resolved = resolve(request, {.default_guidance_scale = 4});
  EXPECT_EQ(resolved.request.prompt, "A cat");
  EXPECT_EQ(resolved.request.height, 256);
  EXPECT_EQ(resolved.request.width, 320);
  EXPECT_EQ(resolved.request.num_inference_steps, 3);
  EXPECT_EQ(resolved.request.guidance_scale, 0);
}

TEST(Request, EmptyPromptIsValid) { EXPECT_NO_THROW(resolve({.prompt = ""}, {})); }

TEST(Request, SizesRoundUpToTheModelsMultiple) {
  const ResolvedRequest hd = resolve({.height = 1080, .width = 1920}, {});
  EXPECT_EQ(hd.request.height, 1080);
  EXPECT_EQ(hd.drawn_height, 1088);
  EXPECT_EQ(hd.drawn_width, 1920);
  const ResolvedRequest one = resolve({.height = 1, .width = 17}, {});
  EXPECT_EQ(one.drawn_height, 16);
  EXPECT_EQ(one.drawn_width, 32);
  EXPECT_EQ(resolve({.height = 5, .width = 8}, {.size_multiple = 4}).drawn_height, 8);
}

TEST(Request, SizesOutOfRangeAreRefused) {
  expect_refused({.height = 0}, {"height", "0", "at least 1"});
  expect_refused({.width = -16}, {"width", "-16", "at least 1"});
  expect_refused({.height = 20000}, {"height", "20000", "8192"});
  expect_refused({.width = std::numeric_limits<int64_t>::max()}, {"width", "8192"});
  EXPECT_NO_THROW(resolve({.height = 8192, .width = 8192}, {}));
  // A side within the limit whose multiple is beyond it.
  expect_refused({.height = 99, .width = 96}, {"height", "99", "112", "100"}, {.size_multiple = 16, .max_side = 100});
}

TEST(Request, ReferencesAreForModelsThatTakeThem) {
  const ReferenceImage cat{.file = "cat.png", .size = {480, 640}};
  expect_refused({.images = {cat, cat}}, {"image has 2", "one, to begin with", "no reference pictures"});
  const ModelLimits limits{.max_reference_images = 2};
  expect_refused({.images = {cat, cat, cat}}, {"image has 3", "at most 2"}, limits);
  expect_refused({.images = {cat, {.file = "line.png", .size = {64, 1000}}}}, {"image[1] (line.png)", "1000x64"},
                 limits);
  expect_refused({.images = {{.size = {32, 32}}}}, {"image[0] is 32x32"}, limits);
  EXPECT_NO_THROW(resolve({.images = {cat}}, any_model_limits()));
}

TEST(Request, TheFirstImageIsWhatTheDrawingBeginsWith) {
  const ReferenceImage cat{.file = "cat.png", .size = {485, 640}};
  const ModelLimits text_alone{.default_strength = 0.6, .default_mask_strength = 1}, edits{.max_reference_images = 2};
  const ResolvedRequest source = resolve({.images = {cat}, .num_inference_steps = 8}, text_alone);
  EXPECT_TRUE(source.has_source);
  EXPECT_FALSE(source.shows_source);
  EXPECT_EQ(source.request.strength, 0.6);
  EXPECT_EQ(source.first_step, 3);
  EXPECT_EQ(source.steps(), 5);
  EXPECT_EQ(source.request.height, 480);
  EXPECT_EQ(source.request.width, 640);
  EXPECT_EQ(resolve({.images = {cat}, .mask = Mask{cat}}, text_alone).request.strength, 1);
  EXPECT_TRUE(source.reference_sizes.empty());

  EXPECT_FALSE(resolve({.images = {cat}}, edits).has_source);
  const ResolvedRequest both = resolve({.images = {cat, cat, cat}, .strength = 0.5}, edits);
  EXPECT_TRUE(both.has_source);
  EXPECT_EQ(both.reference_sizes.size(), 2u);
  const ResolvedRequest masked = resolve({.images = {cat, cat}, .mask = Mask{cat}, .height = 100}, edits);
  EXPECT_TRUE(masked.shows_source);
  EXPECT_EQ(masked.reference_sizes, (std::vector<ImageSize>{{112, 640}, {480, 640}}));
  EXPECT_EQ(resolve(masked.request, edits).reference_sizes, masked.reference_sizes);
}

TEST(Request, WhatABeginningCannotBeIsRefused) {
  const ReferenceImage cat{.file = "cat.png", .size = {480, 640}};
  for (const double strength : {0.0, -1.0, 1.01, std::nan("")})
    expect_refused({.images = {cat}, .strength = strength}, {"strength is", "above 0 and at most 1"});
  expect_refused({.images = {cat}, .strength = 1e-20, .num_inference_steps = 8}, {"none would be drawn", "0.125"});
  expect_refused({.strength = 0.5}, {"strength is 0.5", "no image"});
  expect_refused({.mask = Mask{cat}}, {"mask is given", "no image"});
  expect_refused({.images = {cat}, .mask = Mask{cat, -1}}, {"mask_blur is -1", "256"});
  expect_refused({.images = {cat}, .start = Latents{.file = "x"}}, {"latents are given, and image"});
  ReferenceImage other = cat;
  other.image = std::make_shared<const Image>(Image{1, 1, {0, 0, 0}});
  expect_refused({.images = {cat}, .mask = Mask{other}}, {"mask (cat.png) has 1x1"});
}

TEST(Request, ControlHasAScaleInTheStepsBetweenItsStartAndItsEnd) {
  Control control{.image = ReferenceImage{.file = "edges.png", .size = {480, 645}}, .scale = 0.5};
  EXPECT_EQ(control_scales(control, 4), (std::vector<float>{0.5, 0.5, 0.5, 0.5}));
  control.start = 0.25, control.end = 0.75;
  EXPECT_EQ(control_scales(control, 4), (std::vector<float>{0, 0.5, 0.5, 0}));
  EXPECT_EQ(control_scales(control, 3), (std::vector<float>{0, 0.5, 0}));
  const ModelLimits limits{.control = ControlSupport::loaded};
  const ResolvedRequest resolved = resolve({.control = control, .num_inference_steps = 4}, limits);
  EXPECT_TRUE(resolved.has_control());
  EXPECT_EQ(resolved.request.height, 480) << "of the control image, where none is asked for";
  EXPECT_EQ(resolved.request.width, 640);
  // Of the steps that are drawn.
  const ReferenceImage cat{.file = "cat.png", .size = {480, 640}};
  EXPECT_EQ(
      resolve({.images = {cat}, .strength = 0.5, .control = control, .num_inference_steps = 8}, limits).control_scales,
      (std::vector<float>{0, 0.5, 0.5, 0}));
  control.scale = 0;
  EXPECT_FALSE(resolve({.control = control, .num_inference_steps = 4}, limits).has_control());
}

TEST(Request, WhatControlCannotBeIsRefused) {
  const Control control{.image = ReferenceImage{.file = "edges.png", .size = {480, 640}}};
  const ModelLimits limits{.control = ControlSupport::loaded};
  EXPECT_NO_THROW(resolve({.control = control}, any_model_limits()));
  expect_refused({.control = control}, {"control is given", "no control networks for this model"});
  expect_refused({.control = control}, {"control is given", "--controlnet"}, {.control = ControlSupport::not_loaded});
  const auto with = [&](double scale, double start, double end) {
    Control made = control;
    made.scale = scale, made.start = start, made.end = end;
    return GenerationRequest{.control = made};
  };
  expect_refused(with(-0.1, 0, 1), {"control.scale is -0.1", "from 0 to 10"}, limits);
  expect_refused(with(kNan, 0, 1), {"control.scale is nan"}, limits);
  expect_refused(with(1, -0.1, 1), {"control.start is -0.1", "from 0 to 1"}, limits);
  expect_refused(with(1, 0, 1.5), {"control.end is 1.5", "from 0 to 1"}, limits);
  expect_refused(with(1, 0.5, 0.5), {"control.start is 0.5 and control.end 0.5", "larger"}, limits);
  Control other = control;
  other.image->image = std::make_shared<const Image>(Image{1, 1, {0, 0, 0}});
  expect_refused({.control = other}, {"control.image (edges.png) has 1x1"}, limits);
}

TEST(Request, ControlWithoutAnImageTellsOfAMask) {
  const ReferenceImage cat{.file = "cat.png", .size = {64, 80}};
  const GenerationRequest alone{.images = {cat}, .mask = Mask{cat, 0}, .control = Control{.scale = 0.5}};
  const ModelLimits reads{.control = ControlSupport::loaded, .control_sees_mask = true};
  const ResolvedRequest resolved = resolve(alone, reads);
  EXPECT_TRUE(resolved.has_control());
  EXPECT_EQ(resolved.request.width, 80) << "of the image that the drawing begins with";
  expect_refused(alone, {"control has no image", "16 channels", "control.image"}, {.control = ControlSupport::loaded});
  expect_refused({.control = Control{}}, {"control has no image", "give control.image, or a mask"}, reads);
  expect_refused({.images = {cat}, .control = Control{}}, {"control has no image"}, reads);
  GenerationRequest edges = alone;
  edges.control->preprocessor = Preprocessor::canny;
  expect_refused(edges, {"control.preprocessor is canny", "no control.image"}, reads);
}

TEST(Request, AMissingSideIsThatOfTheFirstPreparedReference) {
  const ModelLimits limits{.default_height = 512, .default_width = 512, .max_reference_images = 3};
  const std::vector<ReferenceImage> images{{.size = {1152, 1536}}, {.size = {100, 90}}};
  const ResolvedRequest both = resolve({.images = images}, limits);
  EXPECT_EQ(both.reference_sizes, (std::vector<ImageSize>{{880, 1168}, {96, 80}}));
  EXPECT_EQ(both.request.height, 880);
  EXPECT_EQ(both.request.width, 1168);
  const ResolvedRequest one = resolve({.images = images, .height = 300}, limits);
  EXPECT_EQ(one.request.height, 300);
  EXPECT_EQ(one.request.width, 1168);
  EXPECT_EQ(resolve({.images = images, .width = 304}, limits).request.height, 880);
  // A resolved request resolves to itself, in other processes and with the server's jobs.
  const ResolvedRequest again = resolve(both.request, limits);
  EXPECT_EQ(again.reference_sizes, both.reference_sizes);
  EXPECT_EQ(again.drawn_width, 1168);
}

TEST(Request, StepsOutOfRangeAreRefused) {
  expect_refused({.num_inference_steps = 0}, {"num_inference_steps", "0", "1 to 1000"});
  expect_refused({.num_inference_steps = -3}, {"num_inference_steps", "-3"});
  expect_refused({.num_inference_steps = 1001}, {"num_inference_steps", "1001"});
  EXPECT_NO_THROW(resolve({.num_inference_steps = 1000}, {}));
}

TEST(Request, GuidanceMustBeFiniteAndNotNegative) {
  for (const double bad : {kNan, kInfinity, -kInfinity, -0.5, 1e300})
    expect_refused({.guidance_scale = bad}, {"guidance_scale"});
  EXPECT_NO_THROW(resolve({.guidance_scale = 0}, {}));
  EXPECT_NO_THROW(resolve({.guidance_scale = 7.5}, {}));
}

TEST(Request, GuidanceNormalizationAndTruncationHaveLimits) {
  for (const double bad : {kNan, kInfinity, -0.1}) expect_refused({.cfg_normalization = bad}, {"cfg_normalization"});
  for (const double bad : {kNan, kInfinity, 0.0, -0.1, 1.01})
    expect_refused({.cfg_truncation = bad}, {"cfg_truncation"});
  EXPECT_NO_THROW(resolve({.cfg_normalization = 1, .cfg_truncation = 0.5}, {}));
}

TEST(Request, OutputsHaveALimit) {
  for (const int64_t bad : {0, -1, 65}) expect_refused({.num_outputs = bad}, {"num_outputs", "1 to 64"});
  EXPECT_NO_THROW(resolve({.num_outputs = 64}, {}));
}

TEST(Request, SeedsHave64Bits) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(resolve({.seed = kMax}, {}).request.seed, kMax);
  EXPECT_NO_THROW(resolve({.seed = kMax - 3, .num_outputs = 4}, {}));
  // The last picture's seed would wrap around.
  expect_refused({.seed = kMax - 2, .num_outputs = 4},
                 {"seed is 18446744073709551613", "4 pictures", "18446744073709551612"});
}

TEST(Request, PromptsHaveAsManyTokensAsTheModelTakes) {
  EXPECT_EQ(resolve({}, {}).request.max_sequence_length, 512);
  EXPECT_EQ(resolve({}, {.max_sequence_length = 96}).request.max_sequence_length, 96);
  EXPECT_EQ(resolve({.max_sequence_length = 1504}, {}).request.max_sequence_length, 1504);
  for (const int64_t bad : {-1, 0}) expect_refused({.max_sequence_length = bad}, {"max_sequence_length", "at least 1"});
  expect_refused({.max_sequence_length = 1505}, {"max_sequence_length is 1505", "at most 1504 tokens"});
}

TEST(Request, TheUsualScaleIsOneMore) {
  constexpr GuidanceForm kZImage = GuidanceForm::from_positive, kFlux = GuidanceForm::from_negative;
  EXPECT_EQ(cfg_scale_of(0, kZImage), 1);
  EXPECT_EQ(cfg_scale_of(4, kZImage), 5);
  EXPECT_EQ(cfg_scale_of(0.01, kZImage), 1.01);
  EXPECT_EQ(guidance_scale_of(1.01, kZImage), 0.01);
  EXPECT_EQ(guidance_scale_of(5, kZImage), 4);
  for (const double off : {1.0, 0.5, 0.0, -3.0}) EXPECT_EQ(guidance_scale_of(off, kZImage), 0) << off;
  for (int i = 0; i <= 2000; ++i)
    EXPECT_EQ(guidance_scale_of(cfg_scale_of(i / 100.0, kZImage), kZImage), i / 100.0) << i;
  EXPECT_EQ(cfg_scale_of(4, kFlux), 4);
  EXPECT_EQ(guidance_scale_of(4, kFlux), 4);
  for (const double off : {1.0, 0.5, 0.0}) {
    EXPECT_EQ(cfg_scale_of(off, kFlux), 1) << off;
    EXPECT_FALSE(guides(kFlux, guidance_scale_of(off, kFlux))) << off;
  }
  EXPECT_EQ(cfg_scale_of(4, GuidanceForm::none), 1) << "a distilled model has no guidance";
}

TEST(Request, SigmasGiveTheNumberOfSteps) {
  EXPECT_EQ(resolve({.sigmas = {1.0, 0.5, 0.1}}, {.default_steps = 8}).request.num_inference_steps, 3);
  EXPECT_EQ(resolve({.num_inference_steps = 2, .sigmas = {1.0, 0.5}}, {}).request.num_inference_steps, 2);
  expect_refused({.num_inference_steps = 4, .sigmas = {1.0, 0.5}}, {"num_inference_steps is 4", "2 levels"});
}

TEST(Request, SigmasMustDescendFromOneTowardsZero) {
  expect_refused({.sigmas = {1.0, 0.0}}, {"sigmas[1]", "above 0"});
  expect_refused({.sigmas = {1.5}}, {"sigmas[0]", "at most 1"});
  expect_refused({.sigmas = {kNan}}, {"sigmas[0]"});
  expect_refused({.sigmas = {1.0, kNan}}, {"sigmas[1]"});
  expect_refused({.sigmas = {-0.5}}, {"sigmas[0]"});
  expect_refused({.sigmas = {0.5, 0.5}}, {"sigmas[1]", "descend"});
  expect_refused({.sigmas = {0.5, 0.6}}, {"sigmas[1]", "descend"});
  // Distinct as doubles, the same float.
  expect_refused({.sigmas = {0.5, 0.5 - 1e-12}}, {"sigmas[1]", "descend"});
  expect_refused({.sigmas = {1.0, 1e-60}}, {"sigmas[1]", "above 0"});
  expect_refused({.sigmas = std::vector<double>(1001, 0.5)}, {"1001 levels", "1000"});
}

}  // namespace
}  // namespace nostos
