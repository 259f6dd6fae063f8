// Tests LoRAs as clients name them: fields, tags in prompts, and the folder that the names are looked up in.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/server/api_error.h"
#include "apps/server/fields.h"
#include "apps/server/lora_folder.h"
#include "apps/server/lora_wishes.h"
#include "base/error.h"
#include "io/file.h"

namespace nostos::server {
namespace {

namespace fs = std::filesystem;

/// \return the error that `work` throws, with status 0 if it throws none.
template <class Work>
ApiError refusal_of(const Work& work) {
  try {
    work();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    return error;
  }
  return {0, "", ""};
}

std::vector<std::pair<std::string, double>> named(const std::vector<LoraWish>& wishes) {
  std::vector<std::pair<std::string, double>> all;
  for (const LoraWish& wish : wishes) all.emplace_back(wish.name, wish.scale);
  return all;
}

using Named = std::vector<std::pair<std::string, double>>;

TEST(ServerLoraTags, AreTakenOutWithTheirSpaces) {
  const struct {
    const char *text, *prompt;
    Named wishes;
  } cases[] = {
      {"a cat", "a cat", {}},
      {" a  cat ", " a  cat ", {}},
      {"a cat <lora:x:0.5>", "a cat", {{"x", 0.5}}},
      {"<lora:x>", "", {{"x", 1}}},
      {"<lora:x> a cat", "a cat", {{"x", 1}}},
      {"a <lora:a b/c:-0.25> cat <LoRA:y:2>", "a cat", {{"a b/c", -0.25}, {"y", 2}}},
      {"a<lora:x:1>b", "ab", {{"x", 1}}},
      {"a <lora:x:1>b", "a b", {{"x", 1}}},
      {"<lora:x:1><lora:x:0>", "", {{"x", 1}, {"x", 0}}},
      {"<lora: x : +1.5 >\ncat", "cat", {{"x", 1.5}}},
      {"<lora:x:.5:1>", "", {{"x", 1}}},
      {"<lora:x:te=1:unet=.25>", "", {{"x", 0.25}}},
      {"<lora:x:0.5:te=1>", "", {{"x", 1}}},
      {"<lora:x:0.5:dyn=8>", "", {{"x", 0.5}}},
      {"<lora:x", "<lora:x", {}},
      {"a <lora:x:1> <lora:y <b", "a <lora:y <b", {{"x", 1}}},
      {"<lyco:x:1> <hypernet:x>", "<lyco:x:1> <hypernet:x>", {}},
      {"< lora:x:1>", "< lora:x:1>", {}},
  };
  for (const auto& [text, prompt, wishes] : cases) {
    const TaggedPrompt found = parse_lora_tags(text);
    EXPECT_EQ(found.prompt, prompt) << text;
    EXPECT_EQ(named(found.wishes), wishes) << text;
  }
}

TEST(ServerLoraTags, OfNoNumberOrTooManyAreRefused) {
  for (const char* bad : {"<lora:x:>", "<lora:x:much>", "<lora:x:1,5>", "<lora:x:nan>", "<lora:x:inf>", "<lora:x:1e9>",
                          "<lora:x:1:y>", "<lora:x:unet=>", "<lora:x:0x1>", "<lora:x:+-1>", "<lora:x:100.5>"}) {
    const ApiError error = refusal_of([&] { parse_lora_tags(bad); });
    if (std::string(bad) == "<lora:x:>") {
      EXPECT_EQ(error.status, 0) << "as <lora:x>";
      continue;
    }
    EXPECT_EQ(error.param, "prompt") << bad;
    EXPECT_NE(std::string(error.what()).find(bad), std::string::npos) << error.what();
  }
  std::string many;
  for (size_t i = 0; i < kMaxAdapters; ++i) many += "<lora:x:1>";
  EXPECT_EQ(parse_lora_tags(many).wishes.size(), kMaxAdapters);
  EXPECT_EQ(refusal_of([&] { parse_lora_tags(many + "<lora:x:1>"); }).param, "prompt");
}

TEST(ServerLoraFields, AreListsOfNamesAndScales) {
  const auto parse = [](const char* text) { return parse_loras(nlohmann::json::parse(text)); };
  EXPECT_TRUE(parse("null").empty());
  EXPECT_TRUE(parse("[]").empty());
  EXPECT_EQ(named(parse(R"([{"name": "x"}, {"name": "a/b", "scale": -0.5, "sha256": ""}])")),
            (Named{{"x", 1}, {"a/b", -0.5}}));
  for (const char* bad : {"{}", "\"x\"", "1", "true"}) EXPECT_EQ(refusal_of([&] { parse(bad); }).param, "loras") << bad;
  for (const char* bad : {"\"x\"", "[]", "{}", "null", R"({"name": 1})", R"({"name": "x", "scale": "1"})",
                          R"({"name": "x", "scale": 101})", R"({"name": "x", "weight": 1})",
                          R"({"name": "x", "sha256": 1})", R"({"scale": 1})"}) {
    const ApiError error = refusal_of([&] { parse(fmt::format(R"([{{"name": "x"}}, {}])", bad).c_str()); });
    EXPECT_EQ(error.param, "loras[1]") << bad;
  }
  EXPECT_EQ(refusal_of([&] { parse_loras(nlohmann::json(std::vector<int>(kMaxAdapters + 1))); }).param, "loras");
}

TEST(ServerLoraFields, WithoutAFolderThereAreNone) {
  const OrderLimits limits{.model = {}, .max_pixels = 1 << 22, .model_path = "", .precision = "f32"};
  const auto parse = [&](const char* text) { return parse_order(parse_body(text), limits, true); };
  EXPECT_EQ(refusal_of([&] { parse(R"({"prompt": "x", "loras": [{"name": "y"}]})"); }).param, "loras");
  EXPECT_TRUE(parse(R"({"prompt": "<lora:y:1>", "loras": []})").record.request.adapters.empty());
  const auto tagged = parse_a1111_order(parse_body(R"({"prompt": "a <lora:y:1>"})"), limits);
  EXPECT_EQ(tagged.record.request.prompt, "a <lora:y:1>");
}

/// A folder whose files say what they are: "bad" ones cannot be used.
class ServerLoras : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(root_ / "styles" / "deep"); }
  void TearDown() override { fs::remove_all(root_.parent_path()); }

  void write(const fs::path& file, const std::string& text) const { std::ofstream(root_ / file) << text; }
  LoraFolder folder() {
    return LoraFolder(root_, [this](const fs::path& file) {
      ++reads_;
      const std::string text = read_file(file, 1000);
      require(text.find("bad") == std::string::npos, ErrorKind::invalid_input, "{}: made for another model",
              file.string());
      return LoraFacts{.sha256 = "hash of " + text, .summary = "LoRA " + text};
    });
  }
  static std::vector<std::string> names(const LoraFolder& folder) {
    std::vector<std::string> all;
    for (const LoraFile& file : folder.list()) all.push_back(file.name);
    return all;
  }
  static ApiError refusal(LoraFolder& folder, const std::string& name, const std::string& hash = "") {
    return refusal_of([&] { folder.find({{.field = "loras[0]", .name = name, .scale = 1, .sha256 = hash}}); });
  }

  const fs::path root_ = fs::path(testing::TempDir()) / ("loras_" + std::to_string(getpid())) / "in";
  std::atomic<int> reads_ = 0;
};

using Names = std::vector<std::string>;

TEST_F(ServerLoras, AreNamedByTheirPathsWithoutTheEnding) {
  write("detail.safetensors", "1");
  write("styles/ink.gguf", "2");
  write("styles/deep/ink.safetensors", "3");
  write("both.gguf", "4");
  write("both.safetensors", "5");
  write("v1.2.safetensors", "6");
  for (const char* other : {"notes.txt", ".hidden.safetensors", "x.safetensors.part", "x.SAFETENSORS", "no\nline.gguf",
                            "no \xff utf8.gguf"})
    write(other, "bad");
  fs::create_directories(root_ / ".cache");
  write(".cache/x.safetensors", "bad");
  fs::create_directories(root_ / "folder.safetensors");
  mkfifo((root_ / "pipe.gguf").c_str(), 0600);
  LoraFolder folder = this->folder();
  EXPECT_EQ(names(folder), (Names{"both.gguf", "both.safetensors", "detail", "styles/deep/ink", "styles/ink", "v1.2"}));
  write("new.gguf", "7");
  EXPECT_EQ(names(folder).size(), 7u);
  fs::remove(root_ / "both.gguf");
  EXPECT_EQ(names(folder).front(), "both");
}

TEST_F(ServerLoras, LinksThatLeadOutAreNotFollowed) {
  const fs::path outside = root_.parent_path() / "out";
  fs::create_directories(outside);
  std::ofstream(outside / "secret.safetensors") << "bad";
  write("styles/real.safetensors", "1");
  fs::create_symlink(outside / "secret.safetensors", root_ / "a.safetensors");
  fs::create_symlink("../out/secret.safetensors", root_ / "b.safetensors");
  fs::create_directory_symlink(outside, root_ / "c");
  fs::create_directory_symlink("..", root_ / "d");
  fs::create_symlink("nowhere", root_ / "e.safetensors");
  fs::create_symlink("f.safetensors", root_ / "f.safetensors");
  fs::create_symlink("styles/real.safetensors", root_ / "g.safetensors");
  LoraFolder folder = this->folder();
  EXPECT_EQ(names(folder), (Names{"g", "styles/real"}));
  for (const char* name :
       {"a", "c/secret", "../out/secret", "d/out/secret", "styles/../g", "/etc/passwd", "", ".", "..", "styles", "./g"})
    EXPECT_EQ(refusal(folder, name).code, "unknown_lora") << name;
  EXPECT_EQ(reads_, 0);
  // A folder that is itself a link is what it leads to.
  fs::create_directory_symlink(root_, root_.parent_path() / "link");
  EXPECT_EQ(names(LoraFolder(root_.parent_path() / "link", [](const fs::path&) { return LoraFacts(); })).size(), 2u);
}

TEST_F(ServerLoras, AreFoundByNameFileOrLastPart) {
  for (const char* file : {"detail.safetensors", "styles/ink.gguf", "styles/deep/ink.safetensors", "styles/pen.gguf"})
    write(file, file);
  LoraFolder folder = this->folder();
  const auto found =
      folder.find({{.field = "", .name = "styles/ink", .scale = 0.5},
                   {.field = "", .name = "pen", .scale = -1},
                   {.field = "", .name = "styles/ink.gguf"},
                   {.field = "", .name = "detail.safetensors"},
                   {.field = "", .name = "styles/deep/ink", .sha256 = "hash of styles/deep/ink.safetensors"}});
  ASSERT_EQ(found.size(), 5u);
  EXPECT_EQ(found[0], (AdapterUse{"styles/ink", (fs::canonical(root_) / "styles/ink.gguf").string(),
                                  "hash of styles/ink.gguf", 0.5}));
  EXPECT_EQ(found[1].name, "styles/pen");
  EXPECT_EQ(found[2], (AdapterUse{found[0].name, found[0].file, found[0].sha256, 1}));
  EXPECT_EQ(found[3].name, "detail");
  EXPECT_EQ(reads_, 4);
  const ApiError two = refusal(folder, "ink");
  EXPECT_EQ(two.code, "ambiguous_lora");
  EXPECT_EQ(std::string(two.what()), "loras[0] names \"ink\", which is \"styles/deep/ink\" as well as \"styles/ink\"");
  EXPECT_EQ(refusal(folder, "detail", "another").code, "changed_lora");
}

TEST_F(ServerLoras, AnUnknownNameIsToldWhatIsNear) {
  LoraFolder folder = this->folder();
  EXPECT_EQ(std::string(refusal(folder, "x").what()),
            "loras[0] names the LoRA \"x\", which this server has not: its folder of LoRAs is empty");
  for (const char* file : {"detail.gguf", "details.gguf", "styles/Detale.gguf", "portrait.gguf", "detain.gguf"})
    write(file, file);
  EXPECT_EQ(std::string(refusal(folder, "detial").what()),
            "loras[0] names the LoRA \"detial\", which this server has not: near it is \"detail\", "
            "\"styles/Detale\"; GET /v1/loras lists all 5");
  EXPECT_EQ(std::string(refusal(folder, "something else").what()),
            "loras[0] names the LoRA \"something else\", which this server has not: GET /v1/loras lists all 5");
  const std::string what = refusal(folder, std::string(100'000, 'd')).what();
  EXPECT_LT(what.size(), 300u);
}

TEST_F(ServerLoras, FilesAreReadOnceUntilTheyChange) {
  write("a.gguf", "one");
  write("b.gguf", "bad");
  LoraFolder folder = this->folder();
  EXPECT_FALSE(folder.known_facts(folder.list()[0]));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(folder.find({{.field = "", .name = "a"}})[0].sha256, "hash of one");
    const ApiError error = refusal(folder, "b");
    EXPECT_EQ(error.param, "loras[0]");
    EXPECT_EQ(std::string(error.what()), "loras[0]: the LoRA \"b\" cannot be used: b.gguf: made for another model");
  }
  EXPECT_EQ(reads_, 2);
  EXPECT_EQ(folder.known_facts(folder.list()[0])->summary, "LoRA one");
  EXPECT_EQ(folder.known_facts(folder.list()[1])->error, "b.gguf: made for another model");
  // Another file of the same length, and time, as a copy that keeps times has it.
  const auto time = fs::last_write_time(root_ / "a.gguf");
  write("new", "two");
  fs::rename(root_ / "new", root_ / "a.gguf");
  fs::last_write_time(root_ / "a.gguf", time);
  EXPECT_FALSE(folder.known_facts(folder.list()[0]));
  EXPECT_EQ(folder.find({{.field = "", .name = "a"}})[0].sha256, "hash of two");
  write("b.gguf", "good");
  EXPECT_EQ(folder.find({{.field = "", .name = "b"}})[0].sha256, "hash of good");
  EXPECT_EQ(reads_, 4);
}

TEST_F(ServerLoras, WhatFilesSayOfThemselvesIsReadOnceUntilTheyChange) {
  write("a.gguf", "one");
  write("b.gguf", "bad");
  int reads = 0;
  LoraFolder folder(
      root_, [](const fs::path&) { return LoraFacts{.sha256 = "hash"}; },
      [&reads](const fs::path& file) {
        ++reads;
        return LoraMetadata{{"text", read_file(file, 1000)}};
      });
  const auto listed = [&folder] {
    Names all;
    for (const LoraFile& file : folder.list()) all.push_back(folder.metadata(file).at("text"));
    return all;
  };
  for (int i = 0; i < 3; ++i) EXPECT_EQ(listed(), (Names{"one", "bad"}));
  EXPECT_EQ(reads, 2);
  // To read a file for the model forgets nothing.
  folder.find({{.field = "", .name = "a"}});
  EXPECT_EQ(listed(), (Names{"one", "bad"}));
  EXPECT_EQ(folder.known_facts(folder.list()[0])->sha256, "hash");
  EXPECT_EQ(reads, 2);
  write("new", "two");
  fs::rename(root_ / "new", root_ / "a.gguf");
  write("c.gguf", "three");
  EXPECT_EQ(listed(), (Names{"two", "bad", "three"}));
  EXPECT_EQ(reads, 4);
  EXPECT_FALSE(folder.known_facts(folder.list()[0])) << "another file";
  EXPECT_TRUE(read_lora_metadata(root_ / "b.gguf").empty()) << "which is none";
}

TEST_F(ServerLoras, ManyThreadsReadAFileOnce) {
  write("a.gguf", "one");
  LoraFolder folder = this->folder();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&folder] { EXPECT_EQ(folder.find({{.field = "", .name = "a"}}).size(), 1u); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(reads_, 1);
}

TEST_F(ServerLoras, FoldersThatAreNoneAreRefused) {
  write("file", "x");
  for (const fs::path& bad : {root_ / "nowhere", root_ / "file"})
    EXPECT_THROW(LoraFolder(bad, [](const fs::path&) { return LoraFacts(); }), Error) << bad;
  LoraFolder folder = this->folder();
  fs::remove_all(root_);
  EXPECT_THROW(folder.list(), Error);
}

TEST_F(ServerLoras, OrdersHaveThem) {
  write("ink.gguf", "one");
  OrderLimits limits{.model = {}, .max_pixels = 1 << 22, .model_path = "", .precision = "f32"};
  limits.loras = std::make_shared<LoraFolder>(root_, [this](const fs::path&) {
    ++reads_;
    return LoraFacts{.sha256 = "hash"};
  });
  const AdapterUse ink{"ink", (fs::canonical(root_) / "ink.gguf").string(), "hash", 0.5};
  const auto parse = [&](const std::string& text) {
    return parse_order(parse_body(text), limits, true).record.request;
  };
  EXPECT_EQ(parse(R"({"prompt": "x", "loras": [{"name": "ink", "scale": 0.5}]})").adapters, std::vector{ink});
  // Tags are A1111's alone.
  EXPECT_TRUE(parse(R"({"prompt": "x <lora:ink:0.5>"})").adapters.empty());
  const auto tagged = parse_a1111_order(parse_body(R"({"prompt": "x <lora:ink:0.5>", "loras": 7})"), limits);
  EXPECT_EQ(tagged.record.request.adapters, std::vector{ink});
  EXPECT_EQ(tagged.record.request.prompt, "x");
  // A form has the list as a text.
  const nlohmann::json fields{{"loras", R"([{"name": "ink"}])"}};
  EXPECT_EQ(Fields(fields, Fields::Reading::lenient).json_value("loras")[0]["name"], "ink");
  EXPECT_TRUE(Fields(fields).json_value("loras").is_string());
  for (const std::string& bad :
       {std::string("["), std::string("x"), std::string(100, '['), std::string("\"\\ud800\""), std::string("[1]]")}) {
    const nlohmann::json text{{"loras", bad}};
    const ApiError error = refusal_of([&] { Fields(text, Fields::Reading::lenient).json_value("loras"); });
    EXPECT_EQ(error.param, "loras") << bad;
  }
}

}  // namespace
}  // namespace nostos::server
