// Tests the text that pictures carry: round trips, the WebUI line, and hostile records.
#include "pipeline/record.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "base/error.h"
#include "io/file.h"

namespace nostos {
namespace {

DrawingRecord full_record() {
  DrawingRecord record;
  record.request.prompt = "a \"quoted\"\nprompt with 海滩 and 🏖";
  record.request.negative_prompt = "rain";
  record.request.height = 1280;
  record.request.width = 720;
  record.request.num_inference_steps = 9;
  record.request.guidance_scale = 4;
  record.request.cfg_normalization = 0.1;
  record.request.cfg_truncation = 0.3;
  record.request.seed = std::numeric_limits<uint64_t>::max();
  record.request.rng = RngKind::torch_cuda;
  record.request.sigmas = {1.0, 0.7, 0.1};
  record.request.start = Latents{.file = "noise.safetensors"};
  record.request.max_sequence_length = 700;
  record.model_path = "owner/Some-Model";
  record.model_name = "Served";
  record.precision = "bf16";
  record.attention_precision = "int8";
  return record;
}

/// \return the JSON of full_record() with the value of one field replaced.
std::string with_field(const std::string& field, const std::string& value) {
  std::string json = to_json(full_record());
  const size_t begin = json.find("\"" + field + "\":") + field.size() + 3;
  size_t end = begin;
  if (json[begin] == '"')
    end = json.find("\",\"", begin) + 1;
  else if (json[begin] == '[')
    end = json.find(']', begin) + 1;
  else
    end = json.find_first_of(",}", begin);
  return json.replace(begin, end - begin, value);
}

TEST(DrawingRecord, ComesBackWhole) {
  const DrawingRecord record = full_record();
  const DrawingRecord back = parse_drawing_record(to_json(record), "test");
  EXPECT_EQ(back.request.prompt, record.request.prompt);
  EXPECT_EQ(back.request.negative_prompt, record.request.negative_prompt);
  EXPECT_EQ(back.request.height, record.request.height);
  EXPECT_EQ(back.request.width, record.request.width);
  EXPECT_EQ(back.request.num_inference_steps, record.request.num_inference_steps);
  EXPECT_EQ(back.request.guidance_scale, record.request.guidance_scale);
  EXPECT_EQ(back.request.cfg_normalization, record.request.cfg_normalization);
  EXPECT_EQ(back.request.cfg_truncation, record.request.cfg_truncation);
  EXPECT_EQ(back.request.seed, record.request.seed);
  EXPECT_EQ(back.request.num_outputs, 1);
  EXPECT_EQ(back.request.rng, record.request.rng);
  EXPECT_EQ(back.request.sigmas, record.request.sigmas);
  EXPECT_EQ(std::get<Latents>(back.request.start).file, "noise.safetensors");
  EXPECT_EQ(back.model_path, record.model_path);
  EXPECT_EQ(back.request.max_sequence_length, record.request.max_sequence_length);
  EXPECT_EQ(back.model_name, record.model_name);
  EXPECT_EQ(back.precision, record.precision);
  EXPECT_EQ(back.attention_precision, record.attention_precision);
  EXPECT_EQ(to_json(back), to_json(record));
}

// A record that the first version wrote: it is drawn as it was.
TEST(DrawingRecord, OlderOnesAreTakenAsTheyWere) {
  const DrawingRecord back = parse_drawing_record(
      R"({"prompt":"a cat","negative_prompt":"","height":64,"width":64,"num_inference_steps":2,"guidance_scale":1.5,)"
      R"("cfg_normalization":0.0,"cfg_truncation":1.0,"seed":9223372036854775807,"num_outputs":1,"rng":"torch-cpu",)"
      R"("sigmas":[],"latents":"","model_path":"a/b","precision":"f32","version":"0.1.0"})",
      "test");
  EXPECT_EQ(back.request.guidance_scale, 1.5);
  EXPECT_TRUE(std::holds_alternative<Noise>(back.request.start));
  EXPECT_EQ(back.request.seed, 9223372036854775807u);
  EXPECT_FALSE(back.request.max_sequence_length);
  EXPECT_EQ(back.model_name, "");
}

TEST(DrawingRecord, ReferencesComeBackWithoutTheirPixels) {
  DrawingRecord record = full_record();
  EXPECT_EQ(to_json(record).find("images"), std::string::npos) << "a picture without references is the one it was";
  record.request.images = {{.file = "a \"cat\" 猫.png",
                            .sha256 = std::string(64, 'a'),
                            .size = {480, 640},
                            .image = std::make_shared<Image>()},
                           {.sha256 = std::string(64, '0'), .size = {64, 64}},
                           {.size = {64, 64}}};
  const DrawingRecord back = parse_drawing_record(to_json(record), "test");
  ASSERT_EQ(back.request.images.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(back.request.images[i].file, record.request.images[i].file);
    EXPECT_EQ(back.request.images[i].sha256, record.request.images[i].sha256);
    EXPECT_EQ(back.request.images[i].size, record.request.images[i].size);
    EXPECT_EQ(back.request.images[i].image, nullptr);
  }
  EXPECT_EQ(to_json(back), to_json(record));
}

TEST(DrawingRecord, ControlComesBackWithoutItsPixels) {
  DrawingRecord record = full_record();
  record.parts.controlnet = "lite.safetensors";
  record.request.image_fit = ImageFit::pad;
  record.request.control =
      Control{.image = ReferenceImage{.file = "edges.png", .sha256 = std::string(64, 'a'), .size = {480, 640}},
              .scale = 0.7,
              .start = 0.1,
              .end = 0.9,
              .preprocessor = Preprocessor::canny};
  const DrawingRecord back = parse_drawing_record(to_json(record), "test");
  ASSERT_TRUE(back.request.control.has_value());
  EXPECT_EQ(back.request.control->image->file, "edges.png");
  EXPECT_EQ(back.request.control->image->sha256, std::string(64, 'a'));
  EXPECT_EQ(back.request.control->image->size, (ImageSize{480, 640}));
  EXPECT_EQ(back.request.control->scale, 0.7);
  EXPECT_EQ(back.request.control->start, 0.1);
  EXPECT_EQ(back.request.control->end, 0.9);
  EXPECT_EQ(back.request.control->preprocessor, Preprocessor::canny);
  EXPECT_EQ(back.request.image_fit, ImageFit::pad);
  EXPECT_EQ(back.parts, record.parts);
  EXPECT_EQ(to_json(back), to_json(record));
  for (const auto& [from, to] : {std::pair{"\"canny\"", "\"depth\""}, {"0.7", "11"}, {"0.9", "1.9"}, {"480", "0"}}) {
    std::string wrong = to_json(record);
    EXPECT_THROW(parse_drawing_record(wrong.replace(wrong.rfind(from), std::string_view(from).size(), to), "x"), Error)
        << to;
  }
}

TEST(DrawingRecord, ControlByAMaskAloneHasNoImage) {
  DrawingRecord record = full_record();
  record.request.mask = Mask{{.file = "mask.png", .sha256 = std::string(64, 'b'), .size = {64, 64}}, 0};
  record.request.control = Control{.scale = 0.6};
  const DrawingRecord back = parse_drawing_record(to_json(record), "test");
  ASSERT_TRUE(back.request.control.has_value());
  EXPECT_FALSE(back.request.control->image.has_value());
  EXPECT_EQ(back.request.control->scale, 0.6);
  EXPECT_EQ(to_json(back), to_json(record));
}

TEST(DrawingRecord, WrongReferencesAreNamed) {
  DrawingRecord record = full_record();
  const std::string hash(64, 'a');
  record.request.images = {{.file = "cat.png", .sha256 = hash, .size = {480, 640}}};
  const std::string json = to_json(record);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = json;
    return changed.replace(json.find(from), from.size(), to);
  };
  for (const std::string& wrong :
       {with(hash, "abc"), with(hash, std::string(64, 'A')), with("480", "0"), with("640", "1e9"),
        with("\"cat.png\"", "7"), with("\"sha256\"", "\"sha1\""), with("\"images\":[{", "\"images\":[3,{"),
        with("\"images\":[", "\"images\":{\"a\":[").replace(json.find("}]"), 2, "}]}")}) {
    try {
      parse_drawing_record(wrong, "beach.png");
      ADD_FAILURE() << "accepted " << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model) << error.what();
    }
  }
}

TEST(DrawingRecord, InvalidUtf8IsReplaced) {
  DrawingRecord record = full_record();
  record.request.prompt = "a\xff";
  EXPECT_EQ(parse_drawing_record(to_json(record), "test").request.prompt, "a\uFFFD");
}

TEST(DrawingRecord, WebuiTextIsTheOneThatToolsRead) {
  DrawingRecord record = full_record();
  record.request.prompt = "A crowded beach";
  record.request.seed = 42;
  record.model_name.clear();  // as in older records
  EXPECT_EQ(webui_parameters(record),
            "A crowded beach\nNegative prompt: rain\nSteps: 9, Sampler: Euler, CFG scale: 5, Seed: 42, Size: 720x1280, "
            "Model: Some-Model, Guidance scale: 4, Version: nostos " NOSTOS_VERSION);
  record.request.negative_prompt.clear();
  record.request.guidance_scale = 0.01;
  record.request.seed = std::numeric_limits<uint64_t>::max();
  record.model_path.clear();
  EXPECT_EQ(webui_parameters(record),
            "A crowded beach\nSteps: 9, Sampler: Euler, CFG scale: 1.01, Seed: 18446744073709551615, Size: 720x1280, "
            "Model: nostos-mini, Guidance scale: 0.01, Version: nostos " NOSTOS_VERSION);
  record.model_name = "served, by \"me\"";
  EXPECT_NE(webui_parameters(record).find(R"(, Model: "served, by \"me\"", Guid)"), std::string::npos)
      << webui_parameters(record);
}

TEST(ModelLabel, IsTheLastPartOfTheAbsolutePath) {
  for (const char* path : {"a/b/model", "a/b/model/", "./model", "model", "a/model/.", "/model", "x/../model/"}) {
    EXPECT_EQ(model_label(path).shown, "model") << path;
    EXPECT_EQ(model_label(path).full, "model") << path;
  }
  const std::string here = std::filesystem::current_path().filename().string();
  for (const char* path : {".", "./", "x/.."}) EXPECT_EQ(model_label(path).shown, here) << path;
  EXPECT_EQ(model_label("/").shown, "model");
  EXPECT_EQ(model_label("").shown, "nostos-mini");
}

TEST(ModelLabel, OfHuggingFaceHasItsOwner) {
  const std::string cache = "/cache/hub/models--Some-Org--Z-Mini.v1/snapshots/";
  for (const std::string& path : {std::string("Some-Org/Z-Mini.v1"), cache + "abc", cache + "abc/", cache + "abc/."}) {
    EXPECT_EQ(model_label(path).shown, "Z-Mini.v1") << path;
    EXPECT_EQ(model_label(path).full, "Some-Org/Z-Mini.v1") << path;
  }
  EXPECT_EQ(model_label("/cache/models--old/snapshots/abc").full, "old");
  EXPECT_EQ(model_label("/cache/models--a--b/blobs/abc").shown, "abc");
  // A folder that is there is no name.
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "owner" / "local";
  std::filesystem::create_directories(folder);
  EXPECT_EQ(model_label(folder.string()).full, "local");
}

TEST(DrawingRecord, WrongFieldsAreNamed) {
  const std::pair<const char*, const char*> wrong[] = {{"prompt", "7"},
                                                       {"height", "0"},
                                                       {"height", "\"x\""},
                                                       {"width", "1e99"},
                                                       {"num_inference_steps", "-1"},
                                                       {"seed", "-1"},
                                                       {"seed", "1.5"},
                                                       {"seed", "18446744073709551616"},
                                                       {"max_sequence_length", "0"},
                                                       {"model_name", "7"},
                                                       {"rng", "\"dice\""},
                                                       {"sigmas", "[2]"},
                                                       {"sigmas", "{}"},
                                                       {"latents", "null"},
                                                       {"cfg_truncation", "9"},
                                                       {"precision", "[]"},
                                                       {"guidance_scale", "\"4\""}};
  for (const auto& [field, value] : wrong) {
    const std::string json = with_field(field, value);
    try {
      parse_drawing_record(json, "beach.png");
      ADD_FAILURE() << "accepted " << json;
    } catch (const Error& error) {
      EXPECT_EQ(exit_code(error.kind()), 2) << json;
    }
  }
}

TEST(DrawingRecord, HostileTextIsRefused) {
  const std::string json = to_json(full_record());
  for (size_t length = 0; length < json.size(); ++length) {
    EXPECT_THROW(parse_drawing_record(std::string_view(json).substr(0, length), "test"), Error) << length;
  }
  EXPECT_THROW(parse_drawing_record(std::string(100000, '['), "test"), Error);
  EXPECT_THROW(parse_drawing_record("[]", "test"), Error);
}

TEST(DrawingRecord, APictureWithoutOneIsRefused) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "plain.png";
  const Image image{.height = 2, .width = 2, .rgb = std::vector<uint8_t>(12)};
  write_file_atomically(file, encode_image(image, ImageFormat::png));
  try {
    read_record_text(file);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    EXPECT_NE(std::string(error.what()).find("plain.png"), std::string::npos);
  }
  write_file_atomically(file, encode_image(image, ImageFormat::png, text_chunks(full_record())));
  EXPECT_EQ(read_record_text(file), to_json(full_record()));
}

}  // namespace
}  // namespace nostos
