// Tests what users are told of their prompts.
#include "pipeline/request_warnings.h"

#include <gtest/gtest.h>

namespace nostos {
namespace {

TEST(PromptWarnings, NameTagsOfNetworksThatAreNotLoaded) {
  EXPECT_TRUE(network_warnings({.prompt = "a <loran> of (red:1.3) lora: x"}).empty());
  const auto warnings = network_warnings({.prompt = "x <LoRA:detail:0.8>", .negative_prompt = "<hypernet:y>"});
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_NE(warnings[0].find("the prompt holds <LoRA:"), std::string::npos) << warnings[0];
  EXPECT_NE(warnings[1].find("the negative prompt holds <hypernet:"), std::string::npos) << warnings[1];
}

TEST(PromptWarnings, SayToHowManyTokensAPromptWasCut) {
  const GenerationRequest request{.prompt = "<lora:x>", .max_sequence_length = 9};
  EXPECT_TRUE(cut_warnings(request, {}).empty());
  EXPECT_EQ(cut_warnings(request, {.prompt = true}).front(),
            "the prompt was cut to its first 9 tokens (max_sequence_length)");
  EXPECT_EQ(warnings_of(request, {.prompt = true, .negative = true}).size(), 3u);
}

TEST(PromptWarnings, SayThatNoStepFollowsTheControlImage) {
  GenerationRequest request{.control = Control{.start = 0.3, .end = 0.6}, .num_inference_steps = 4};
  EXPECT_EQ(control_warnings(request).front(),
            "the control network changes nothing: of 4 steps none lies between its start 0.3 and its end 0.6");
  request.control->image = ReferenceImage{.size = {64, 80}};
  EXPECT_EQ(control_warnings(request).front(),
            "the control image changes nothing: of 4 steps none lies between its start 0.3 and its end 0.6");
  EXPECT_EQ(warnings_of(request, {}).size(), 1u);
  request.num_inference_steps = 10;
  EXPECT_TRUE(control_warnings(request).empty());
  request.control->scale = 0;
  request.num_inference_steps = 4;
  EXPECT_TRUE(control_warnings(request).empty()) << "as asked for";
}

TEST(PromptWarnings, NameFieldsThatChangeNothingWithoutGuidance) {
  const GenerationRequest plain{.guidance_scale = 1},
      asks{.negative_prompt = "x", .guidance_scale = 4, .cfg_normalization = 1};
  EXPECT_TRUE(guidance_warnings(plain, GuidanceForm::none).empty());
  EXPECT_EQ(guidance_warnings(asks, GuidanceForm::none),
            (std::vector<std::string>{
                "guidance_scale 4 changes nothing: this model is distilled and draws without guidance",
                "negative_prompt changes nothing without guidance, which this distilled model has not",
                "cfg_normalization changes nothing without guidance, which this distilled model has not"}));
  EXPECT_TRUE(guidance_warnings(asks, GuidanceForm::from_positive).empty());
  const GenerationRequest off{.negative_prompt = "x", .guidance_scale = 1};
  EXPECT_EQ(guidance_warnings(off, GuidanceForm::from_negative).front(),
            "negative_prompt changes nothing without guidance: give guidance_scale");
  EXPECT_TRUE(guidance_warnings(off, GuidanceForm::from_positive).empty());
}

}  // namespace
}  // namespace nostos
