// Tests that damaged, hostile and unsupported tokenizer files are refused with an error that names file and field.
#include "text/tokenizer_files.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace nostos {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

const fs::path kSmallTokenizer = NOSTOS_SOURCE_DIR "/tests/data/text/small_tokenizer";

std::string read(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

void write(const fs::path& path, std::string_view text) { std::ofstream(path, std::ios::binary) << text; }

Json small_json() {
  static const Json json = Json::parse(read(kSmallTokenizer / "tokenizer.json"));
  return json;
}

/// \return the message of the model error that `action` throws.
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    return error.what();
  }
  return "no error";
}

std::string message_for_text(const std::string& text) {
  return message_of([&] { Tokenizer(parse_tokenizer_json(text, "t.json")); });
}

/// \return the message for the small tokenizer with `change` made to it.
std::string message_for(const std::function<void(Json&)>& change) {
  Json json = small_json();
  change(json);
  return message_for_text(json.dump());
}

TEST(TokenizerJson, ReadsTheSmallTokenizer) {
  const TokenizerDefinition definition = read_tokenizer_files(kSmallTokenizer);
  EXPECT_EQ(definition.vocabulary.size(), 2045u);
  EXPECT_EQ(definition.merges.size(), 1789u);
  EXPECT_EQ(definition.added_tokens.size(), 3u);
  EXPECT_EQ(definition.pattern, kQwen2Pattern);
}

TEST(TokenizerJson, ReadsMergesOfOlderFiles) {
  Json json = small_json();
  for (Json& merge : json["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  EXPECT_EQ(parse_tokenizer_json(json.dump(), "").merges, read_tokenizer_files(kSmallTokenizer).merges);
}

TEST(TokenizerJson, AcceptsWhatDoesNotMatter) {
  EXPECT_EQ(message_for([](Json& j) { j["truncation"] = {{"max_length", 8}}; }), "no error");
  EXPECT_EQ(message_for([](Json& j) { j["decoder"] = nullptr; }), "no error");
  EXPECT_EQ(message_for([](Json& j) { j["post_processor"] = nullptr; }), "no error");
  EXPECT_EQ(message_for([](Json& j) { j["model"]["continuing_subword_prefix"] = ""; }), "no error");
  EXPECT_EQ(message_for([](Json& j) { j["model"].erase("ignore_merges"); }), "no error");
}

TEST(TokenizerJson, RefusesWhatIsNoJson) {
  EXPECT_EQ(message_for_text(""), "t.json: not valid JSON at byte 1");
  EXPECT_EQ(message_for_text("{\"model\": "), "t.json: not valid JSON at byte 11");
  EXPECT_EQ(message_for_text("{} {}"), "t.json: not valid JSON at byte 4");
  EXPECT_EQ(message_for_text("{\"a\": \"\xFF\"}"), "t.json: not valid JSON at byte 8");
  EXPECT_EQ(message_for_text("{\"a\": 1e999}").substr(0, 23), "t.json: not valid JSON:");
  EXPECT_EQ(message_for_text("[]"), "t.json: its value is []; it must be an object");
}

TEST(TokenizerJson, RefusesDeepNesting) {
  const std::string deep(1'000'000, '[');
  EXPECT_EQ(message_for_text(deep), "t.json: JSON nested deeper than 32 at byte 32");
  EXPECT_EQ(message_for_text("{\"[[\\\"[\": " + deep), "t.json: JSON nested deeper than 32 at byte 41");
  EXPECT_EQ(message_for_text("\"" + deep + "\"").substr(0, 25),
            "t.json: its value is \"[[[");  // brackets in text are none
}

TEST(TokenizerJson, NamesMissingFields) {
  for (const char* name : {"model", "normalizer", "pre_tokenizer", "post_processor", "added_tokens"}) {
    EXPECT_EQ(message_for([&](Json& j) { j.erase(name); }), fmt::format("t.json: the field '{}' is missing", name));
  }
  for (const char* name : {"type", "vocab", "merges"}) {
    EXPECT_EQ(message_for([&](Json& j) { j["model"].erase(name); }),
              fmt::format("t.json: the field 'model.{}' is missing", name));
  }
  for (const char* name : {"id", "content", "lstrip", "rstrip", "single_word", "normalized"}) {
    EXPECT_EQ(message_for([&](Json& j) { j["added_tokens"][1].erase(name); }),
              fmt::format("t.json: the field 'added_tokens[1].{}' is missing", name));
  }
  EXPECT_EQ(message_for([](Json& j) {
              j["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"String", " "}};
            }),
            "t.json: the field 'pre_tokenizer.pretokenizers[0].pattern.Regex' is missing");
}

TEST(TokenizerJson, NamesFieldsOfTheWrongType) {
  EXPECT_EQ(message_for([](Json& j) { j["model"] = 3; }), "t.json: the field 'model' is 3; it must be an object");
  EXPECT_EQ(message_for([](Json& j) { j["model"]["vocab"] = Json::array({1}); }),
            "t.json: the field 'model.vocab' is [1]; it must be an object");
  EXPECT_EQ(message_for([](Json& j) { j["model"]["merges"] = "a b"; }),
            "t.json: the field 'model.merges' is \"a b\"; it must be an array");
  EXPECT_EQ(message_for([](Json& j) { j["added_tokens"] = nullptr; }),
            "t.json: the field 'added_tokens' is null; it must be an array");
  EXPECT_EQ(message_for([](Json& j) { j["added_tokens"][0] = "x"; }),
            "t.json: the field 'added_tokens[0]' is \"x\"; it must be an object");
  EXPECT_EQ(message_for([](Json& j) { j["added_tokens"][0]["content"] = ""; }),
            "t.json: the field 'added_tokens[0].content' is \"\"; it must be a text that is not empty");
  EXPECT_EQ(message_for([](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = 1; }),
            "t.json: the field 'pre_tokenizer.pretokenizers[0].pattern.Regex' is 1; it must be a string");
}

TEST(TokenizerJson, RefusesIdsOutOfRange) {
  const std::pair<Json, std::string> cases[] = {
      {-1, "-1; it must be a token id from 0 to 2147483646"},
      {2147483647u, "2147483647; it must be a token id from 0 to 2147483646"},
      {18446744073709551615u, "18446744073709551615; it must be a token id from 0 to 2147483646"},
      {1.5, "1.5; it must be a token id from 0 to 2147483646"},
      {"7", "\"7\"; it must be a token id from 0 to 2147483646"},
      {nullptr, "null; it must be a token id from 0 to 2147483646"}};
  for (const auto& [id, message] : cases) {
    EXPECT_EQ(message_for([&](Json& j) { j["model"]["vocab"]["the"] = id; }),
              "t.json: the field 'model.vocab[\"the\"]' is " + message);
    EXPECT_EQ(message_for([&](Json& j) { j["added_tokens"][2]["id"] = id; }),
              "t.json: the field 'added_tokens[2].id' is " + message);
  }
}

TEST(TokenizerJson, TakesTheLargestIdWithoutMakingRoomForIt) {
  Json json = small_json();
  json["added_tokens"][2]["id"] = 2147483646;
  const Tokenizer tokenizer(parse_tokenizer_json(json.dump(), "t.json"));
  EXPECT_EQ(tokenizer.vocabulary_size(), 2147483647);
  EXPECT_EQ(tokenizer.encode("<|im_end|>"), std::vector<int32_t>{2147483646});
}

TEST(TokenizerJson, RefusesIdsGivenTwice) {
  const std::string twice = message_for([](Json& j) { j["model"]["vocab"]["!!!!!!!"] = 0; });
  EXPECT_TRUE(twice == "t.json: the token id 0 is given to both '!' and '!!!!!!!'" ||
              twice == "t.json: the token id 0 is given to both '!!!!!!!' and '!'")
      << twice;
  EXPECT_EQ(message_for([](Json& j) { j["added_tokens"][1]["id"] = 2045; }),
            "t.json: the token id 2045 is given to both '<|endoftext|>' and '<|im_start|>'");
  EXPECT_EQ(message_for([](Json& j) { j["added_tokens"][1]["content"] = "<|endoftext|>"; }),
            "t.json: the added token '<|endoftext|>' is listed twice");
  EXPECT_EQ(message_for([](Json& j) { j["model"]["vocab"]["<|im_end|>"] = 5000; }),
            "t.json: the added token '<|im_end|>' has the id 2047, but the vocabulary gives it 5000");
  EXPECT_EQ(message_for([](Json& j) { j["model"]["vocab"]["<|im_end|>"] = 2047; }), "no error");
}

TEST(TokenizerJson, RefusesMergesThatDoNotFit) {
  EXPECT_EQ(message_for([](Json& j) {
              j["model"]["merges"][4] = {"Ġ", "Ω"};
            }),
            "t.json: merge 4 ('Ġ' + 'Ω') names the token 'ĠΩ', which is not in the vocabulary");
  EXPECT_EQ(message_for([](Json& j) { j["model"]["merges"][4] = j["model"]["merges"][0]; }),
            "t.json: merge 4 ('Ġ' + 'a') is listed twice");
  for (const Json& wrong :
       {Json("a"), Json("a b c"), Json({"a"}), Json({"a", 1}), Json(7), Json({"a", "b", "c"}), Json()}) {
    EXPECT_EQ(message_for([&](Json& j) { j["model"]["merges"][4] = wrong; }),
              fmt::format("t.json: the field 'model.merges[4]' is {}; it must be a pair of tokens", wrong.dump()));
  }
  EXPECT_EQ(message_for([](Json& j) { j["model"]["vocab"].erase("!"); }),
            "t.json: the vocabulary has no token '!' for byte 0x21; a byte-level vocabulary has one for each of the "
            "256 bytes");
}

TEST(TokenizerJson, NamesUnsupportedFeatures) {
  const auto message = [](const char* field, const char* value, const char* supported) {
    return fmt::format("t.json: the field '{}' is {}, which is not supported; only Qwen2 tokenizers are, with {} here",
                       field, value, supported);
  };
  EXPECT_EQ(message_for([](Json& j) { j["model"]["type"] = "Unigram"; }),
            message("model.type", "\"Unigram\"", "\"BPE\""));
  EXPECT_EQ(message_for([](Json& j) { j["normalizer"]["type"] = "NFKC"; }),
            message("normalizer.type", "\"NFKC\"", "\"NFC\""));
  EXPECT_EQ(message_for([](Json& j) { j["normalizer"] = nullptr; }),
            "t.json: the field 'normalizer' is null; it must be an object");
  EXPECT_EQ(message_for([](Json& j) { j["post_processor"]["type"] = "BertProcessing"; }),
            message("post_processor.type", "\"BertProcessing\"", "\"ByteLevel\""));
  const Json text_alone = Json::parse(R"([{"Sequence": {"id": "A", "type_id": 0}}])");
  const Json with_token =
      Json::parse(R"([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}])");
  EXPECT_EQ(message_for([&](Json& j) {
              j["post_processor"] = {{"type", "TemplateProcessing"}, {"single", text_alone}};
            }),
            "no error");
  EXPECT_NE(message_for([&](Json& j) {
              j["post_processor"] = {{"type", "TemplateProcessing"}, {"single", with_token}};
            }),
            "no error");
  EXPECT_EQ(message_for([](Json& j) {
              j["pre_tokenizer"] = {{"type", "Metaspace"}};
            }),
            message("pre_tokenizer.type", "\"Metaspace\"", "\"Sequence\""));
  EXPECT_EQ(message_for([](Json& j) { j["pre_tokenizer"]["pretokenizers"] = Json::array(); }),
            message("pre_tokenizer.pretokenizers", "[]", "a Split and a ByteLevel"));
  EXPECT_EQ(message_for([](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }),
            message("pre_tokenizer.pretokenizers[0].behavior", "\"Removed\"", "\"Isolated\""));
  EXPECT_EQ(message_for([](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["invert"] = true; }),
            message("pre_tokenizer.pretokenizers[0].invert", "true", "false"));
  EXPECT_EQ(message_for([](Json& j) { j["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = true; }),
            message("pre_tokenizer.pretokenizers[1].use_regex", "true", "false"));
  EXPECT_EQ(message_for([](Json& j) { j["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }),
            message("pre_tokenizer.pretokenizers[1].add_prefix_space", "true", "false"));
  EXPECT_EQ(message_for([](Json& j) { j["model"]["dropout"] = 0.1; }), message("model.dropout", "0.1", "none"));
  EXPECT_EQ(message_for([](Json& j) { j["model"]["byte_fallback"] = true; }),
            message("model.byte_fallback", "true", "none"));
  EXPECT_EQ(message_for([](Json& j) { j["model"]["unk_token"] = "<unk>"; }),
            message("model.unk_token", "\"<unk>\"", "none"));
  EXPECT_EQ(message_for([](Json& j) { j["added_tokens"][0]["lstrip"] = true; }),
            message("added_tokens[0].lstrip", "true", "false"));
  EXPECT_EQ(message_for([](Json& j) { j["added_tokens"][0]["normalized"] = true; }),
            message("added_tokens[0].normalized", "true", "false"));
}

TEST(TokenizerJson, ShortensLongValuesInMessages) {
  EXPECT_LT(message_for([](Json& j) { j["model"]["type"] = std::string(100'000, 'x'); }).size(), 250u);
  EXPECT_LT(message_for([](Json& j) { j["model"]["type"] = Json::array_t(100'000); }).size(), 250u);
  EXPECT_LT(message_for([](Json& j) { j["model"]["merges"][0] = {std::string(100'000, 'x'), "y"}; }).size(), 350u);
  EXPECT_LT(message_for([](Json& j) {
              j["added_tokens"][0]["content"] = j["added_tokens"][1]["content"] = std::string(100'000, 'x');
            }).size(),
            350u);
}

/// A folder in the vocab.json layout, gone at the end of the test.
class VocabAndMerges : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    for (const char* name : {"vocab.json", "merges.txt", "tokenizer_config.json"}) {
      fs::copy_file(kSmallTokenizer / name, folder_ / name);
    }
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string message() {
    return message_of([&] { Tokenizer::load(folder_); });
  }
  std::string message_for_config(const std::function<void(Json&)>& change) {
    Json config = Json::parse(read(kSmallTokenizer / "tokenizer_config.json"));
    change(config);
    write(folder_ / "tokenizer_config.json", config.dump());
    return message();
  }
  std::string path(const char* name) const { return (folder_ / name).string(); }

  const fs::path folder_ = fs::path(testing::TempDir()) /
                           fmt::format("nostos_{}", testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(VocabAndMerges, EqualsTokenizerJson) {
  const TokenizerDefinition files = read_tokenizer_files(folder_);
  const TokenizerDefinition json = read_tokenizer_files(kSmallTokenizer);
  EXPECT_EQ(files.pattern, json.pattern);
  EXPECT_EQ(files.vocabulary, json.vocabulary);
  EXPECT_EQ(files.merges, json.merges);
  ASSERT_EQ(files.added_tokens.size(), json.added_tokens.size());
  for (std::size_t i = 0; i < files.added_tokens.size(); ++i) {
    EXPECT_EQ(files.added_tokens[i].content, json.added_tokens[i].content);
    EXPECT_EQ(files.added_tokens[i].id, json.added_tokens[i].id);
  }
}

TEST_F(VocabAndMerges, ReadsMergesWithOtherLineEnds) {
  std::string text = read(folder_ / "merges.txt");
  for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 2) text.replace(at, 1, "\r\n");
  write(folder_ / "merges.txt", text);
  EXPECT_EQ(read_tokenizer_files(folder_).merges, read_tokenizer_files(kSmallTokenizer).merges);
}

TEST_F(VocabAndMerges, NamesMissingFiles) {
  fs::remove(folder_ / "tokenizer_config.json");
  EXPECT_EQ(message(), "cannot read '" + path("tokenizer_config.json") + "': No such file or directory");
  fs::remove(folder_ / "merges.txt");
  EXPECT_EQ(message(), "cannot read '" + path("merges.txt") + "': No such file or directory");
  fs::remove(folder_ / "vocab.json");
  EXPECT_EQ(message(), folder_.string() +
                           ": holds neither tokenizer.json nor vocab.json, one of which a tokenizer folder must have");
  fs::remove_all(folder_);
  EXPECT_EQ(message(), folder_.string() +
                           ": holds neither tokenizer.json nor vocab.json, one of which a tokenizer folder must have");
}

TEST_F(VocabAndMerges, NamesLinksToNothingAndGitLfsPointers) {
  for (const char* name : {"tokenizer_config.json", "merges.txt", "vocab.json", "tokenizer.json"}) {
    fs::remove(folder_ / name);
    fs::create_symlink("../blobs/gone", folder_ / name);
    EXPECT_EQ(message(), "cannot read '" + path(name) +
                             "': it is a link to '../blobs/gone', which does not exist (is the download incomplete?)");
    fs::remove(folder_ / name);
    write(folder_ / name, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n");
    EXPECT_EQ(message(), "'" + path(name) + "' is a git-lfs pointer, not the file itself: fetch it with: git lfs pull");
    if (name != std::string_view("tokenizer.json"))
      fs::copy_file(kSmallTokenizer / name, folder_ / name, fs::copy_options::overwrite_existing);
  }
}

TEST_F(VocabAndMerges, ReadsAddedTokensJsonWhereTheConfigListsNone) {
  Json config = Json::parse(read(kSmallTokenizer / "tokenizer_config.json"));
  Json added;
  for (const auto& [id, token] : config["added_tokens_decoder"].items())
    added[token["content"].get<std::string>()] = std::stoi(id);
  config.erase("added_tokens_decoder");
  write(folder_ / "tokenizer_config.json", config.dump());
  write(folder_ / "added_tokens.json", added.dump());
  const std::string text = "<|im_start|>user\nA cat<|im_end|>";
  EXPECT_EQ(Tokenizer::load(folder_).encode(text), Tokenizer::load(kSmallTokenizer).encode(text));
  EXPECT_EQ(read_tokenizer_files(folder_).added_tokens.size(), added.size());

  for (const auto& [bad, wanted] : std::vector<std::pair<const char*, const char*>>{
           {"[]", "its value is []; it must be an object"},
           {R"({"<x>": -1})", R"(the field '["<x>"]' is -1; it must be a token id)"},
           {R"({"": 2047})", "the added token with the id 2047 is empty"}}) {
    write(folder_ / "added_tokens.json", bad);
    EXPECT_NE(message().find(path("added_tokens.json") + ": " + wanted), std::string::npos) << message();
  }
  write(folder_ / "added_tokens.json", R"({"<x>": 5})");
  EXPECT_NE(message().find("the token id 5 is given to both"), std::string::npos) << message();
}

TEST_F(VocabAndMerges, DoesNotReadFilesThatItDoesNotNeed) {
  fs::copy_file(kSmallTokenizer / "tokenizer.json", folder_ / "tokenizer.json");
  for (const char* name : {"vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"})
    write(folder_ / name, "{ damaged");
  EXPECT_EQ(message(), "no error");
}

TEST_F(VocabAndMerges, RefusesDamagedMerges) {
  for (const char* line : {"a", "a b c", " b", "a ", " "}) {
    write(folder_ / "merges.txt", std::string("#version: 0.2\n") + line + "\n");
    EXPECT_EQ(message(), path("merges.txt") + ": line 2 is not two tokens with a space between") << line;
  }
  write(folder_ / "merges.txt", "q q\n");
  EXPECT_EQ(message(),
            path("vocab.json") + ": merge 0 ('q' + 'q') names the token 'qq', which is not in the vocabulary");
}

TEST_F(VocabAndMerges, RefusesDamagedVocabulary) {
  write(folder_ / "vocab.json", "[1]");
  EXPECT_EQ(message(), path("vocab.json") + ": its value is [1]; it must be an object");
  write(folder_ / "vocab.json", "{\"a\": -1}");
  EXPECT_EQ(message(), path("vocab.json") + ": the field '[\"a\"]' is -1; it must be a token id from 0 to 2147483646");
  write(folder_ / "vocab.json", "{}");
  EXPECT_NE(message().find("the vocabulary has no token"), std::string::npos);
}

TEST_F(VocabAndMerges, RefusesOtherConfigurations) {
  const std::string file = path("tokenizer_config.json");
  EXPECT_EQ(
      message_for_config([](Json& j) { j["tokenizer_class"] = "GPT2Tokenizer"; }),
      file +
          ": the field 'tokenizer_class' is \"GPT2Tokenizer\", which is not supported; only Qwen2 tokenizers are, with "
          "\"Qwen2Tokenizer\" here");
  EXPECT_EQ(message_for_config([](Json& j) { j["tokenizer_class"] = "Qwen2TokenizerFast"; }), "no error");
  EXPECT_EQ(message_for_config([](Json& j) { j.erase("tokenizer_class"); }),
            file + ": the field 'tokenizer_class' is missing");
  EXPECT_EQ(
      message_for_config([](Json& j) { j["add_prefix_space"] = true; }),
      file +
          ": the field 'add_prefix_space' is true, which is not supported; only Qwen2 tokenizers are, with none here");
  EXPECT_EQ(message_for_config([](Json& j) { j.erase("added_tokens_decoder"); }),
            file +
                ": the field 'added_tokens_decoder' is missing, and so is added_tokens.json, one of which must list "
                "the added tokens");
  for (const char* key : {"", "x", "-1", "7x", "99999999999", "2147483647"}) {
    EXPECT_EQ(
        message_for_config([&](Json& j) { j["added_tokens_decoder"][key] = j["added_tokens_decoder"]["2045"]; }),
        file + ": 'added_tokens_decoder' has the key \"" + key + "\"; its keys must be token ids from 0 to 2147483646");
  }
  EXPECT_EQ(
      message_for_config([](Json& j) { j["added_tokens_decoder"]["2046"]["rstrip"] = true; }),
      file +
          ": the field 'added_tokens_decoder[\"2046\"].rstrip' is true, which is not supported; only Qwen2 tokenizers "
          "are, with false here");
}

}  // namespace
}  // namespace nostos
