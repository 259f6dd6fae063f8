// Tests checked JSON configs.
#include "io/json_config.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <array>
#include <chrono>

#include "io/test_files.h"

namespace nostos {
namespace {

JsonConfig config(std::string_view text) { return JsonConfig::parse(text, "vae/config.json"); }

TEST(JsonConfig, ReadsEveryType) {
  const JsonConfig c =
      config(R"({"dim": 384, "neg": -3, "eps": 1e-5, "whole": 2, "yes": true, "name": "silu", "nothing": null,
                 "axes": [16, 24], "sigmas": [1, 0.5], "tags": ["a", "b"], "rope": {"theta": 256.0, "in": {"x": 1}}})");
  EXPECT_EQ(c.integer("dim", 1, 384), 384);
  EXPECT_EQ(c.integer("neg", -3, 0), -3);
  EXPECT_EQ(c.number("eps"), 1e-5);
  EXPECT_EQ(c.number("whole", 0, 2), 2.0);
  EXPECT_TRUE(c.boolean("yes"));
  EXPECT_EQ(c.string("name"), "silu");
  EXPECT_EQ(c.integers("axes", 1, 100), (std::vector<int64_t>{16, 24}));
  EXPECT_EQ(c.numbers("sigmas", 0, 1), (std::vector<double>{1, 0.5}));
  EXPECT_EQ(c.strings("tags"), (std::vector<std::string>{"a", "b"}));
  ASSERT_TRUE(c.object("rope").has_value());
  EXPECT_EQ(c.object("rope")->number("theta"), 256.0);
  EXPECT_EQ(c.object("rope")->object("in")->integer("x", 0, 9), 1);
  EXPECT_EQ(c.fields().size(), 11u);
  EXPECT_NE(c.dump().find("\"dim\": 384"), std::string::npos);
}

TEST(JsonConfig, NullAndAbsentTakeTheDefault) {
  const JsonConfig c = config(R"({"nothing": null})");
  for (const char* field : {"nothing", "absent"}) {
    EXPECT_FALSE(c.has(field));
    EXPECT_EQ(c.integer_or(field, 7, 0, 9), 7);
    EXPECT_EQ(c.number_or(field, 0.5), 0.5);
    EXPECT_TRUE(c.boolean_or(field, true));
    EXPECT_EQ(c.string_or(field, "s"), "s");
    EXPECT_EQ(c.integers_or(field, {1}, 0, 9), std::vector<int64_t>{1});
    EXPECT_EQ(c.strings_or(field, {"t"}), std::vector<std::string>{"t"});
    EXPECT_FALSE(c.object(field).has_value());
    expect_error([&] { c.integer(field, 1, 9); }, ErrorKind::model,
                 {"vae/config.json", field, "missing", "from 1 to 9"});
  }
}

TEST(JsonConfig, WrongValuesNameFileFieldFoundAndRight) {
  const JsonConfig c =
      config(R"({"a": "x", "f": 2.5, "big": 18446744073709551615, "i": 5, "list": [1, "two"], "deep": {"dim": -1},
                                  "long": "0123456789012345678901234567890123456789012345678901234567890123456789"})");
  expect_error([&] { c.integer("a", 1, 9); }, ErrorKind::model,
               {"vae/config.json", "'a'", "\"x\"", "integer from 1 to 9"});
  expect_error([&] { c.integer("f", 1, 9); }, ErrorKind::model, {"2.5"});
  expect_error([&] { c.integer("big", 0, INT64_MAX); }, ErrorKind::model, {"18446744073709551615"});
  expect_error([&] { c.integer("i", 6, 9); }, ErrorKind::model, {"is 5, must be an integer from 6 to 9"});
  expect_error([&] { c.integer("i", 1, 4); }, ErrorKind::model, {"is 5"});
  expect_error([&] { c.integer_or("i", 2, 1, 4); }, ErrorKind::model, {"is 5"});
  expect_error([&] { c.number("a"); }, ErrorKind::model, {"must be a number"});
  expect_error([&] { c.number("f", 3, 4); }, ErrorKind::model, {"a number from 3 to 4"});
  expect_error([&] { c.boolean("i"); }, ErrorKind::model, {"true or false"});
  expect_error([&] { c.string("i"); }, ErrorKind::model, {"a string"});
  expect_error([&] { c.integers("list", 0, 9); }, ErrorKind::model, {"array of integers"});
  expect_error([&] { c.integers("i", 0, 9); }, ErrorKind::model, {"array of integers"});
  expect_error([&] { c.strings("list"); }, ErrorKind::model, {"array of strings"});
  expect_error([&] { c.object("i"); }, ErrorKind::model, {"an object"});
  expect_error([&] { c.object("deep")->integer("dim", 1, 9); }, ErrorKind::model, {"'deep.dim'", "-1"});
  expect_error([&] { c.integer("long", 1, 9); }, ErrorKind::model, {"5678...(cut), must be"});
}

TEST(JsonConfig, HostileTextIsRefused) {
  const std::string nested = std::string(100'000, '[') + std::string(100'000, ']');
  expect_error([&] { config("{\"a\":" + nested + "}"); }, ErrorKind::model, {"vae/config.json", "deeper than 64"});
  expect_error([&] { config("{\"a\":" + std::string(100'000, '[')); }, ErrorKind::model, {"deeper than 64"});
  expect_error([] { config(R"({"a": 1, "b": {"a": 2}, "a": 3})"); }, ErrorKind::model, {"'a'", "twice"});
  expect_error([] { config("[1]"); }, ErrorKind::model, {"must hold a JSON object"});
  expect_error([] { config(""); }, ErrorKind::model, {"not valid JSON"});
  expect_error([] { config("{\"a\": 1"); }, ErrorKind::model, {"not valid JSON"});
  expect_error([] { config("{\"a\": 1} x"); }, ErrorKind::model, {"not valid JSON"});
  expect_error([] { config("{\"a\": NaN}"); }, ErrorKind::model, {"not valid JSON"});
  expect_error([] { config("{\"a\": 1e999}"); }, ErrorKind::model, {"vae/config.json"});
  expect_error([] { config("{\"a\": \"\xff\"}"); }, ErrorKind::model, {"not valid JSON"});
  expect_error([] { config(std::string(JsonConfig::kMaxBytes + 1, ' ')); }, ErrorKind::model, {"larger than"});
}

// A parser that looks at all of a container after each value in it takes minutes.
TEST(JsonConfig, ManyObjectsInOneTakeTimeInProportion) {
  std::string list, fields;
  for (int i = 0; i < 200'000; ++i) {
    list += "{},";
    fields += fmt::format("\"k{}\":{{}},", i);
  }
  const auto begin = std::chrono::steady_clock::now();
  config("{\"a\":[" + list + "0]}");
  config("{" + fields + "\"a\":0}");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST(JsonConfig, DepthLimitIsExact) {
  const auto nested = [](int levels) {
    return "{\"a\":" + std::string(static_cast<size_t>(levels - 1), '[') +
           std::string(static_cast<size_t>(levels - 1), ']') + "}";
  };
  EXPECT_NO_THROW(config(nested(JsonConfig::kMaxDepth)));
  EXPECT_THROW(config(nested(JsonConfig::kMaxDepth + 1)), Error);
}

TEST(JsonConfig, ClassNames) {
  const std::array<std::string_view, 2> known = {"AutoencoderKL", "Qwen3Model"};
  EXPECT_EQ(config(R"({"_class_name": "AutoencoderKL"})").class_name(known), "AutoencoderKL");
  EXPECT_EQ(config(R"({"architectures": ["Qwen3Model"]})").class_name(known), "Qwen3Model");
  expect_error([&] { config(R"({"_class_name": "UNet"})").class_name(known); }, ErrorKind::model,
               {"_class_name", "UNet", "AutoencoderKL, Qwen3Model"});
  expect_error([&] { config(R"({"architectures": ["Llama"]})").class_name(known); }, ErrorKind::model,
               {"architectures", "Llama"});
  expect_error([&] { config(R"({"architectures": []})").class_name(known); }, ErrorKind::model, {"architectures"});
  expect_error([&] { config("{}").class_name(known); }, ErrorKind::model, {"_class_name", "missing"});
}

class JsonConfigFile : public FolderTest {};

TEST_F(JsonConfigFile, Loads) {
  EXPECT_EQ(JsonConfig::load(write("c.json", R"({"x": 1})")).integer("x", 0, 9), 1);
  expect_error([&] { JsonConfig::load(folder_ / "absent.json"); }, ErrorKind::model, {"absent.json", "No such file"});
  expect_error([&] { JsonConfig::load(write("bad.json", "{")); }, ErrorKind::model, {"bad.json", "not valid JSON"});
}

}  // namespace
}  // namespace nostos
