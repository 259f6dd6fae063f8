// Tests what the server reads from requests that nobody vouches for: fields, keys, base64.
#include <gtest/gtest.h>

#include "apps/server/api_error.h"
#include "apps/server/fields.h"
#include "apps/server/identifiers.h"

namespace nostos::server {
namespace {

const OrderLimits kLimits{.model = {}, .max_pixels = 2048 * 2048, .model_path = "some/model", .precision = "f32"};

/// \return the field that the order in `body` is refused for, or "accepted".
std::string refused_field(const std::string& body, bool strict = true) {
  try {
    parse_order(parse_body(body), kLimits, strict);
    return "accepted";
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    return error.param;
  }
}

TEST(ServerFields, DefaultsAreTheModelsAndSeedsAreDrawn) {
  const auto body = parse_body(R"({"prompt": "x", "width": null})");
  const DrawingOrder first = parse_order(body, kLimits, true), second = parse_order(body, kLimits, true);
  EXPECT_EQ(*first.record.request.width, kLimits.model.default_width);
  EXPECT_EQ(*first.record.request.num_inference_steps, kLimits.model.default_steps);
  EXPECT_EQ(first.record.model_path, "some/model");
  EXPECT_EQ(first.format, ImageFormat::png);
  EXPECT_NE(first.record.request.seed, second.record.request.seed);
  EXPECT_LT(first.record.request.seed, uint64_t{1} << 32);
}

TEST(ServerFields, SizesInBothForms) {
  const DrawingOrder order = parse_order(parse_body(R"({"prompt": "x", "size": "640x480"})"), kLimits, true);
  EXPECT_EQ(*order.record.request.width, 640);
  EXPECT_EQ(*order.record.request.height, 480);
  for (const char* size :
       {"640", "x", "640x", "x480", "640x480 ", "640X480", "0x0x0", "1e3x5", "", "99999999999999999999x1"})
    EXPECT_EQ(refused_field(fmt::format(R"({{"prompt": "x", "size": "{}"}})", size)), "size") << size;
  EXPECT_EQ(refused_field(R"({"prompt": "x", "width": 4096, "height": 4096})"), "size");
  EXPECT_EQ(refused_field(R"({"prompt": "x", "width": 2048, "height": 2048})"), "accepted");
}

TEST(ServerFields, WholeNumbersMayBeWrittenAsReals) {
  const DrawingOrder order = parse_order(parse_body(R"({"prompt": "x", "n": 2.0, "seed": 1e3})"), kLimits, true);
  EXPECT_EQ(order.record.request.num_outputs, 2);
  EXPECT_EQ(order.record.request.seed, 1000u);
  EXPECT_EQ(refused_field(R"({"prompt": "x", "n": 2.5})"), "n");
  EXPECT_EQ(refused_field(R"({"prompt": "x", "n": true})"), "n");
  EXPECT_EQ(refused_field(R"({"prompt": "x", "seed": 18446744073709551615})"), "seed");
}

TEST(ServerFields, FilesOfTheServerCannotBeNamed) {
  EXPECT_EQ(refused_field(R"({"prompt": "x", "latents": "/etc/passwd"})"), "latents");
  const DrawingOrder order = parse_order(parse_body(R"({"prompt": "x", "latents": "/etc/passwd"})"), kLimits, false);
  EXPECT_TRUE(order.record.request.latents.empty());
}

TEST(ServerFields, DepthIsLimited) {
  const auto nested = [](int levels) {
    return R"({"prompt": "x", "user": )" + std::string(levels, '[') + std::string(levels, ']') + "}";
  };
  EXPECT_NO_THROW(parse_body(nested(kMaxJsonDepth - 1)));
  EXPECT_THROW(parse_body(nested(kMaxJsonDepth)), ApiError);
  EXPECT_THROW(parse_body(std::string(1 << 20, '[')), ApiError);
}

TEST(ServerFields, A1111GuidanceOfOneIsNone) {
  const auto guidance = [](const char* scale) {
    const auto body = parse_body(fmt::format(R"({{"prompt": "x", "cfg_scale": {}}})", scale));
    return *parse_a1111_order(body, kLimits).record.request.guidance_scale;
  };
  EXPECT_EQ(guidance("1"), 0);
  EXPECT_EQ(guidance("0.5"), 0);
  EXPECT_EQ(guidance("4.5"), 4.5);
  EXPECT_EQ(guidance("null"), kLimits.model.default_guidance_scale);
}

// Ranks that draw the two halves of guidance cannot draw without, and would end the server.
TEST(ServerFields, GuidanceMustBeOnWhereRanksSplitItsHalves) {
  OrderLimits limits = kLimits;
  limits.wants_guidance = true;
  const auto refused = [&limits](const char* body, const auto& parse) -> std::string {
    try {
      parse(parse_body(body), limits);
      return "accepted";
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status, 400);
      return error.param;
    }
  };
  const auto own = [](const auto& body, const OrderLimits& given) { parse_order(body, given, true); };
  EXPECT_EQ(refused(R"({"prompt": "x", "guidance_scale": 0})", own), "guidance_scale");
  EXPECT_EQ(refused(R"({"prompt": "x", "guidance_scale": 2})", own), "accepted");
  EXPECT_EQ(refused(R"({"prompt": "x"})", own), "guidance_scale");  // the model's default is 0
  limits.model.default_guidance_scale = 4;
  EXPECT_EQ(refused(R"({"prompt": "x"})", own), "accepted");
  EXPECT_EQ(refused(R"({"prompt": "x", "cfg_scale": 1})", parse_a1111_order), "cfg_scale");
  EXPECT_EQ(refused(R"({"prompt": "x", "cfg_scale": 2})", parse_a1111_order), "accepted");
}

TEST(ServerKeys, Base64BothWays) {
  EXPECT_EQ(to_base64(""), "");
  EXPECT_EQ(to_base64("f"), "Zg==");
  EXPECT_EQ(to_base64("fo"), "Zm8=");
  EXPECT_EQ(to_base64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(to_base64("\xff\xfe\xfd"), "//79");
  for (const char* text : {"", "f", "fo", "foo", "foob", "fooba"}) EXPECT_EQ(from_base64(to_base64(text)), text);
  EXPECT_EQ(from_base64("Zg=x"), "");
}

TEST(ServerKeys, ComparisonIsExact) {
  EXPECT_TRUE(equal_in_constant_time("key", "key"));
  for (const char* wrong : {"", "ke", "kez", "keyk", "keykey", "Key"})
    EXPECT_FALSE(equal_in_constant_time("key", wrong));
}

}  // namespace
}  // namespace nostos::server
