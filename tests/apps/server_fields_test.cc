// Tests what the server reads from requests that nobody vouches for: fields, keys, base64.
#include <gtest/gtest.h>

#include <chrono>

#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/fields.h"
#include "apps/server/identifiers.h"
#include "apps/server/png_info.h"

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

/// \return the request in words that tests compare: steps and guidance, and what was changed to get there.
std::pair<std::pair<int64_t, double>, std::vector<ChangedSetting>> settings_of(const DrawingOrder& order) {
  const GenerationRequest& request = order.record.request;
  return {{*request.num_inference_steps, *request.guidance_scale}, order.changes};
}

TEST(ServerFields, SettingsForOtherModelsAreClampedAndTold) {
  using Settings = std::pair<int64_t, double>;
  using Changes = std::vector<ChangedSetting>;
  OrderLimits limits = kLimits;
  limits.client_defaults = ClientDefaults::clamp;
  const auto body = parse_body(R"({"prompt": "x", "num_inference_steps": 22, "guidance_scale": 7})");
  const Changes openai{{"num_inference_steps", 22, 8}, {"guidance_scale", 7, 0}};
  EXPECT_EQ(settings_of(parse_order(body, limits, false)), std::pair(Settings(8, 0), openai));
  EXPECT_EQ(settings_of(parse_order(body, limits, true)), std::pair(Settings(22, 7), Changes())) << "jobs are kept";
  EXPECT_EQ(settings_of(parse_order(body, kLimits, false)), std::pair(Settings(22, 7), Changes()));
  const auto webui = parse_body(R"({"steps": 9, "cfg_scale": 4.5})");
  EXPECT_EQ(settings_of(parse_a1111_order(webui, limits)),
            std::pair(Settings(8, 0), Changes({{"steps", 9, 8}, {"cfg_scale", 4.5, 1}})));
  const auto little = parse_body(R"({"steps": 4, "cfg_scale": 1})");
  EXPECT_EQ(settings_of(parse_a1111_order(little, limits)), std::pair(Settings(4, 0), Changes()));
  // Of a model with guidance, its own is the most; of one that has none, a scale changes nothing.
  limits.model.default_guidance_scale = 3;
  EXPECT_EQ(settings_of(parse_a1111_order(webui, limits)),
            std::pair(Settings(8, 3), Changes({{"steps", 9, 8}, {"cfg_scale", 4.5, 4}})));
  limits.model.guidance = GuidanceForm::none;
  EXPECT_EQ(settings_of(parse_a1111_order(webui, limits)), std::pair(Settings(8, 4.5), Changes({{"steps", 9, 8}})));
}

TEST(ServerFields, ModelsWhoseOwnGuidanceIsOffClamp) {
  const auto usual = [](GuidanceForm form, double scale) {
    return usual_client_defaults({.default_guidance_scale = scale, .guidance = form});
  };
  EXPECT_EQ(usual(GuidanceForm::from_positive, 0), ClientDefaults::clamp);
  EXPECT_EQ(usual(GuidanceForm::from_positive, 4), ClientDefaults::keep);
  EXPECT_EQ(usual(GuidanceForm::from_negative, 1), ClientDefaults::clamp);
  EXPECT_EQ(usual(GuidanceForm::from_negative, 4), ClientDefaults::keep);
  EXPECT_EQ(usual(GuidanceForm::none, 4), ClientDefaults::clamp);
}

TEST(ServerFields, SizesInBothForms) {
  const DrawingOrder order = parse_order(parse_body(R"({"prompt": "x", "size": "640x480"})"), kLimits, true);
  EXPECT_EQ(*order.record.request.width, 640);
  EXPECT_EQ(*order.record.request.height, 480);
  for (const char* size : {"640", "x", "640x", "x480", "640x480 ", "640X480", "0x0x0", "1e3x5", "",
                           "99999999999999999999x1", "0x0", "640x0", "-1x640", "10000x10000", "64x8193"})
    EXPECT_EQ(refused_field(fmt::format(R"({{"prompt": "x", "size": "{}"}})", size)), "size") << size;
  EXPECT_EQ(refused_field(R"({"prompt": "x", "width": 4096, "height": 4096})"), "size");
  EXPECT_EQ(refused_field(R"({"prompt": "x", "width": 2048, "height": 2048})"), "accepted");
  EXPECT_EQ(refused_field(R"({"prompt": "x", "size": "10000x64", "width": 64})"), "accepted");
  EXPECT_EQ(refused_field(R"({"prompt": "x", "size": "10000x64", "height": 64})"), "size");
}

TEST(ServerFields, WholeNumbersMayBeWrittenAsReals) {
  const DrawingOrder order = parse_order(parse_body(R"({"prompt": "x", "n": 2.0, "seed": 1e3})"), kLimits, true);
  EXPECT_EQ(order.record.request.num_outputs, 2);
  EXPECT_EQ(order.record.request.seed, 1000u);
  EXPECT_EQ(refused_field(R"({"prompt": "x", "n": 2.5})"), "n");
  EXPECT_EQ(refused_field(R"({"prompt": "x", "n": true})"), "n");
}

/// \return the order in a body of A1111's txt2img, or nothing, and the field that it was refused for.
std::pair<std::optional<DrawingOrder>, std::string> a1111_order(const std::string& body) {
  try {
    return {parse_a1111_order(parse_body(body), kLimits), ""};
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    return {std::nullopt, error.param};
  }
}

TEST(ServerFields, SeedsHave64BitsAndMinusOneIsARandomOne) {
  const auto own = [](const std::string& body) { return parse_order(parse_body(body), kLimits, true); };
  const auto a1111 = [](const std::string& body) { return *a1111_order(body).first; };
  const auto check = [](const auto& parse) {
    for (const char* seed : {"18446744073709551615", "\"18446744073709551615\""})
      EXPECT_EQ(parse(fmt::format(R"({{"prompt": "x", "seed": {}}})", seed)).record.request.seed, UINT64_MAX) << seed;
    EXPECT_EQ(parse(R"({"prompt": "x", "seed": 9007199254740993})").record.request.seed, 9007199254740993u);
    EXPECT_EQ(parse(R"({"prompt": "x", "seed": 0})").record.request.seed, 0u);
    for (const char* random : {"-1", "null", "-1.0", "\"-1\""}) {
      const std::string body = fmt::format(R"({{"prompt": "x", "seed": {}}})", random);
      EXPECT_NE(parse(body).record.request.seed, parse(body).record.request.seed) << random;
      EXPECT_LT(parse(body).record.request.seed, uint64_t{1} << 32);
    }
  };
  check(own);
  check(a1111);
  // The last ones are doubles, which may stand for other numbers than were meant.
  for (const char* bad : {"-2", "1.5", "true", "[]", "\"x\"", "\"\"", "\"1 2\"", "18446744073709551616", "1e18"}) {
    const std::string body = fmt::format(R"({{"prompt": "x", "seed": {}}})", bad);
    EXPECT_EQ(refused_field(body), "seed") << bad;
    EXPECT_EQ(a1111_order(body).second, "seed") << bad;
  }
  EXPECT_EQ(refused_field(R"({"prompt": "x", "seed": 18446744073709551615, "n": 2})"), "seed");
}

TEST(ServerFields, A1111NumbersMayStandInQuotes) {
  // A client's own body (SipherAGI/sd-webui-agent-scheduler#259), and what pydantic makes of it.
  const auto [order, refused] = a1111_order(
      R"({"steps": "70", "cfg_scale": "5", "batch_size": "2", "n_iter": 1.0, "width": " 640 ", "height": 70.0})");
  ASSERT_TRUE(order) << refused;
  const GenerationRequest& request = order->record.request;
  EXPECT_EQ(request.prompt, "");
  EXPECT_EQ(request.num_inference_steps, 70);
  EXPECT_EQ(request.guidance_scale, 4);
  EXPECT_EQ(request.num_outputs, 2);
  EXPECT_EQ(request.width, 640);
  EXPECT_EQ(request.height, 70);
  for (const char* twenty : {"\"+20\"", "\"020\"", "\"20.0\"", "\"2e1\"", "20.0", "\"\\t20\\n\""})
    EXPECT_EQ(a1111_order(fmt::format(R"({{"steps": {}}})", twenty)).first->record.request.num_inference_steps, 20)
        << twenty;
  EXPECT_EQ(a1111_order(R"({"cfg_scale": "1.5"})").first->record.request.guidance_scale, 0.5);
  EXPECT_EQ(a1111_order(R"({"cfg_scale": ".5"})").first->record.request.guidance_scale, 0);
  for (const char* bad : {"\"many\"", "\"\"", "\" \"", "\"+-5\"", "\"0x5\"", "\"70.5\"", "70.5", "\"1,5\"", "[1]",
                          "\"[1]\"", "\"nan\"", "true"})
    EXPECT_EQ(a1111_order(fmt::format(R"({{"steps": {}}})", bad)).second, "steps") << bad;
  // The other APIs take JSON's types alone.
  EXPECT_EQ(refused_field(R"({"prompt": "x", "num_inference_steps": "7"})"), "num_inference_steps");
  EXPECT_EQ(refused_field(R"({"prompt": "x", "guidance_scale": "7"})"), "guidance_scale");
}

TEST(ServerFields, A1111TruthMayBeAWordOrANumber) {
  const auto sends = [](const char* value) {
    const auto body = parse_body(fmt::format(R"({{"send_images": {}}})", value));
    return Fields(body, Fields::Reading::lenient).boolean("send_images");
  };
  for (const char* yes : {"true", "1", "\"True\"", "\"on\"", "\"yes\"", "\"1\""}) EXPECT_EQ(sends(yes), true) << yes;
  for (const char* no : {"false", "0", "\"FALSE\"", "\"off\"", "\"n\""}) EXPECT_EQ(sends(no), false) << no;
  for (const char* bad : {"2", "\"\"", "\"maybe\"", "[]", "{}"}) EXPECT_THROW(sends(bad), ApiError) << bad;
}

// What SillyTavern and openOutpaint send, as their sources have it.
TEST(ServerFields, A1111ClientsOwnBodiesAreTaken) {
  const char* const bodies[] = {
      R"({"prompt": "a cat", "negative_prompt": "rain", "sampler_name": "Euler", "scheduler": "Automatic", "steps": 20,
          "cfg_scale": 7, "width": 512, "height": 512, "restore_faces": false, "enable_hr": false,
          "hr_upscaler": "Latent", "hr_scale": 1, "hr_additional_modules": [], "denoising_strength": 0.7,
          "hr_second_pass_steps": 0, "seed": -1,
          "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic", "forge_additional_modules": []},
          "override_settings_restore_afterwards": true, "clip_skip": 1, "save_images": true, "send_images": true,
          "do_not_save_grid": false, "do_not_save_samples": false})",
      R"({"prompt": "a cat", "negative_prompt": "", "seed": "-1", "cfg_scale": 7, "sampler_index": "Euler", "steps": 30,
          "width": 512, "height": 512, "batch_size": 2, "n_iter": 1, "denoising_strength": 0.7, "mask_blur": 0,
          "enable_hr": false, "hr_scale": 2, "hr_upscaler": "None", "styles": [], "alwayson_scripts": {},
          "script_args": []})"};
  for (const char* body : bodies) {
    const auto [order, refused] = a1111_order(body);
    ASSERT_TRUE(order) << refused;
    EXPECT_EQ(order->record.request.guidance_scale, 6);
  }
}

TEST(ServerFields, PromptsHaveALimitOfTokens) {
  const auto tokens = [](const char* body) {
    return parse_order(parse_body(body), kLimits, true).record.request.max_sequence_length;
  };
  EXPECT_EQ(tokens(R"({"prompt": "x"})"), 512);
  EXPECT_EQ(tokens(R"({"prompt": "x", "max_sequence_length": 1024})"), 1024);
  for (const char* bad : {"0", "1505", "\"many\""})
    EXPECT_EQ(refused_field(fmt::format(R"({{"prompt": "x", "max_sequence_length": {}}})", bad)),
              "max_sequence_length");
}

TEST(ServerFields, FilesOfTheServerCannotBeNamed) {
  EXPECT_EQ(refused_field(R"({"prompt": "x", "latents": "/etc/passwd"})"), "latents");
  const DrawingOrder order = parse_order(parse_body(R"({"prompt": "x", "latents": "/etc/passwd"})"), kLimits, false);
  EXPECT_TRUE(std::holds_alternative<Noise>(order.record.request.start));
}

TEST(ServerFields, DepthIsLimited) {
  const auto nested = [](int levels) {
    return R"({"prompt": "x", "user": )" + std::string(levels, '[') + std::string(levels, ']') + "}";
  };
  std::string many;
  for (int i = 0; i < 200'000; ++i) many += "{},";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_NO_THROW(parse_body("{\"a\":[" + many + "{}]}"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10)) << "not in proportion to the text";
  EXPECT_NO_THROW(parse_body(nested(kMaxJsonDepth - 1)));
  EXPECT_THROW(parse_body(nested(kMaxJsonDepth)), ApiError);
  EXPECT_THROW(parse_body(std::string(1 << 20, '[')), ApiError);
}

// A1111's scale is s of neg + s (pos - neg), the record's g of pos + g (pos - neg).
TEST(ServerFields, A1111GuidanceIsTheUsualScale) {
  const auto guidance = [](const char* scale) {
    const auto body = parse_body(fmt::format(R"({{"prompt": "x", "cfg_scale": {}}})", scale));
    return *parse_a1111_order(body, kLimits).record.request.guidance_scale;
  };
  EXPECT_EQ(guidance("1"), 0);
  EXPECT_EQ(guidance("0.5"), 0);
  EXPECT_EQ(guidance("0"), 0);
  EXPECT_EQ(guidance("1.01"), 0.01);
  EXPECT_EQ(guidance("1.5"), 0.5);
  EXPECT_EQ(guidance("5"), 4);
  EXPECT_EQ(guidance("1001"), 1000);
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

// What A1111's parse_generation_parameters gives of such texts.
TEST(ServerPngInfo, ReadsTheTextOfWebuiTools) {
  using nlohmann::ordered_json;
  EXPECT_EQ(webui_settings(
                "A boat\nin the bay\nNegative prompt: fog\nat night\nSteps: 9, Sampler: Euler, CFG scale: 5, Seed: "
                "18446744073709551615, Size: 64x48, Model: \"a, \\\"b\\\": c\", Version: nostos 0"),
            (ordered_json{{"Prompt", "A boat\nin the bay"},
                          {"Negative prompt", "fog\nat night"},
                          {"Steps", "9"},
                          {"Sampler", "Euler"},
                          {"CFG scale", "5"},
                          {"Seed", "18446744073709551615"},
                          {"Size-1", "64"},
                          {"Size-2", "48"},
                          {"Model", "a, \"b\": c"},
                          {"Version", "nostos 0"}}));
  const auto prompt = [](const char* text) { return webui_settings(text).at("Prompt"); };
  EXPECT_EQ(prompt(""), "");
  EXPECT_EQ(prompt("only words"), "only words");
  EXPECT_EQ(prompt("words: with, colons: in\nthem: all"), "words: with, colons: in\nthem: all");
  EXPECT_EQ(prompt("Steps: 9, Seed: 4, Size: 1x1"), "");
  for (const char* hostile : {"a\n:::", "a\nb: \"c", "a\nb: \"\\", "a\n,,,,", "a\nx: , y: , z: ,", "\n\n"})
    EXPECT_NO_THROW(webui_settings(hostile)) << hostile;
  EXPECT_NO_THROW(webui_settings(std::string(1 << 20, ',')));
  EXPECT_NO_THROW(webui_settings(std::string(1 << 20, ':')));
}

TEST(ServerKeys, Base64BothWays) {
  EXPECT_EQ(to_base64(""), "");
  EXPECT_EQ(to_base64("f"), "Zg==");
  EXPECT_EQ(to_base64("fo"), "Zm8=");
  EXPECT_EQ(to_base64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(to_base64("\xff\xfe\xfd"), "//79");
  for (const char* text : {"", "f", "fo", "foo", "foob", "fooba"}) EXPECT_EQ(from_base64(to_base64(text)), text);
  EXPECT_EQ(from_base64("Zg=x"), "");
  EXPECT_EQ(from_base64("Zm9v\r\nYmE=\r\n"), "");
  EXPECT_EQ(from_base64("\tZm9v\r\n Y\nmE = \r\n", Base64Form::with_spaces), "fooba");
  EXPECT_EQ(from_base64("Zm9v-", Base64Form::with_spaces), "");
  EXPECT_EQ(from_base64(" \r\n", Base64Form::with_spaces), "");
}

TEST(ServerKeys, ComparisonIsExact) {
  EXPECT_TRUE(equal_in_constant_time("key", "key"));
  for (const char* wrong : {"", "ke", "kez", "keyk", "keykey", "Key"})
    EXPECT_FALSE(equal_in_constant_time("key", wrong));
}

}  // namespace
}  // namespace nostos::server
