// Tests which weights of a file are found to be quantised, and how, in every style of marker, and hostile markers.
#include "io/layer_formats.h"

#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "io/gguf_bytes.h"
#include "io/safetensors.h"
#include "io/test_files.h"

namespace nostos {
namespace {

/// A tensor of a file to be made; its bytes are zero where they are fewer than it takes.
struct Made {
  std::string name;
  std::string dtype;
  std::vector<int64_t> extents;
  std::string data{};
};

Made marker(const std::string& layer, const std::string& json) {
  return {layer + ".comfy_quant", "U8", {static_cast<int64_t>(json.size())}, json};
}
Made float_of(const std::string& name, float value) { return {name, "F32", {}, number_bytes(value)}; }
Made floats_of(const std::string& name, const std::vector<int64_t>& extents, const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) bytes += number_bytes(value);
  return {name, "F32", extents, bytes};
}

const StoredWeight kFp8One{{StoredType::f8_e4m3, WeightScales::one, 0}, "a.weight_scale"};
const StoredWeight kInt8Rows{{StoredType::i8, WeightScales::each_row, 0}, "a.weight_scale"};
const StoredWeight kRotatedRows{{StoredType::i8, WeightScales::each_row, 256}, "a.weight_scale"};
const char* const kConvRot = R"({"format":"int8_tensorwise","convrot":true,"convrot_groupsize":256})";

class LayerFormatsTest : public FolderTest {
 protected:
  /// \return a safetensors file of these tensors, which lives as long as the test.
  const TensorFile& file(const std::vector<Made>& tensors, const std::string& metadata = "") {
    std::string header = metadata.empty() ? "{" : R"({"__metadata__":)" + metadata + (tensors.empty() ? "" : ",");
    std::string data;
    for (const Made& tensor : tensors) {
      size_t bytes = tensor.dtype == "F32" ? 4 : tensor.dtype == "BF16" || tensor.dtype == "F16" ? 2 : 1;
      for (const int64_t extent : tensor.extents) bytes *= static_cast<size_t>(extent);
      std::string padded = tensor.data;
      padded.resize(bytes);
      header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                            &tensor == tensors.data() ? "" : ",", tensor.name, tensor.dtype,
                            fmt::join(tensor.extents, ","), data.size(), data.size() + bytes);
      data += padded;
    }
    return opened(safetensors_bytes(header + "}", data));
  }
  const TensorFile& opened(std::string_view bytes) {
    files_.push_back(open_tensor_file(write(fmt::format("f{}", files_.size()), bytes)));
    return *files_.back();
  }
  /// Expects asking for the weight, or reading the markers before, to be refused.
  void expect_refused(const TensorFile& file, std::string_view weight, std::initializer_list<std::string_view> parts) {
    const std::string path = file.path().string();
    expect_error([&] { LayerFormats(file).of(weight); }, ErrorKind::model, {path});
    expect_error([&] { LayerFormats(file).of(weight); }, ErrorKind::model, parts);
  }

 private:
  std::vector<std::unique_ptr<const TensorFile>> files_;
};

TEST_F(LayerFormatsTest, FilesWithoutQuantisationAreAsTheySay) {
  const TensorFile& plain = file({{"a.weight", "BF16", {2, 4}}, {"a.bias", "F32", {2}}, {"n", "F16", {3}}});
  const LayerFormats formats(plain);
  EXPECT_EQ(formats.of("a.weight"), (StoredWeight{{StoredType::bf16, WeightScales::none, 0}, ""}));
  EXPECT_EQ(formats.of("a.bias"), (StoredWeight{{StoredType::f32, WeightScales::none, 0}, ""}));
  EXPECT_EQ(formats.of("n").format.type, StoredType::f16);
  EXPECT_TRUE(formats.belonging().empty());
  EXPECT_TRUE(formats.scales(formats.of("a.weight")).empty());
  expect_refused(plain, "b.weight", {"has no tensor 'b.weight'"});
  const LayerFormats blocks(opened(GgufBytes().tensor("a.weight", {64}, 8, std::string(68, 'q')).bytes()));
  EXPECT_EQ(blocks.of("a.weight"), (StoredWeight{{StoredType::q8_0, WeightScales::none, 0}, ""}));
}

TEST_F(LayerFormatsTest, MarkersOfComfyUi) {
  const LayerFormats formats(file({{"a.weight", "F8_E4M3", {2, 4}},
                                   marker("a", R"({"format":"float8_e4m3fn","full_precision_matrix_mult":true})"),
                                   float_of("a.weight_scale", 0.25f),
                                   float_of("a.input_scale", 3.f),
                                   {"bytes.weight", "U8", {2, 4}},
                                   marker("bytes", R"({"format": "float8_e5m2"})"),
                                   float_of("bytes.weight_scale", 0.5f),
                                   {"c.weight", "I8", {2, 256}},
                                   marker("c", kConvRot),
                                   floats_of("c.weight_scale", {2, 1}, {0.5f, 0.75f}),
                                   {"d.weight", "I8", {3, 16}},
                                   marker("d", R"({"format":"int8_tensorwise"})"),
                                   floats_of("d.weight_scale", {3}, {1, 2, 3}),
                                   {"e.weight", "BF16", {1}}}));
  EXPECT_EQ(formats.of("a.weight"), kFp8One);
  EXPECT_EQ(formats.scales(formats.of("a.weight")), std::vector<float>{0.25f});
  EXPECT_EQ(formats.of("bytes.weight"),
            (StoredWeight{{StoredType::f8_e5m2, WeightScales::one, 0}, "bytes.weight_scale"}));
  EXPECT_EQ(formats.of("c.weight"), (StoredWeight{{StoredType::i8, WeightScales::each_row, 256}, "c.weight_scale"}));
  EXPECT_EQ(formats.scales(formats.of("c.weight")), (std::vector<float>{0.5f, 0.75f}));
  EXPECT_EQ(formats.of("d.weight"), (StoredWeight{{StoredType::i8, WeightScales::each_row, 0}, "d.weight_scale"}));
  EXPECT_EQ(formats.of("e.weight").format.type, StoredType::bf16);
  EXPECT_EQ(formats.belonging(),
            (std::set<std::string, std::less<>>{"a.comfy_quant", "a.weight_scale", "a.input_scale", "bytes.comfy_quant",
                                                "bytes.weight_scale", "c.comfy_quant", "c.weight_scale",
                                                "d.comfy_quant", "d.weight_scale"}));
}

TEST_F(LayerFormatsTest, RotationsAreReadWhereverTheyStand) {
  const auto rotation = [&](const std::string& json) {
    const TensorFile& made = file({{"a.weight", "I8", {2, 1024}}, marker("a", json), float_of("a.weight_scale", 1.f)});
    return LayerFormats(made).of("a.weight").format.rotation;
  };
  EXPECT_EQ(rotation(kConvRot), 256);
  EXPECT_EQ(rotation(R"({"format":"int8_tensorwise","convrot":true})"), 256)
      << "what ComfyUI takes where none is named";
  EXPECT_EQ(rotation(R"({"format":"int8_tensorwise","convrot":false,"convrot_groupsize":256})"), 0);
  EXPECT_EQ(rotation(R"({"format":"int8_tensorwise","params":{"convrot":true,"convrot_groupsize":64}})"), 64);
  EXPECT_EQ(rotation(R"({"format":"int8_tensorwise","convrot":false,"params":{"convrot":true}})"), 0);
  EXPECT_EQ(rotation(R"({"format":"int8_tensorwise","convrot":true,"params":{"convrot_groupsize":1024}})"), 1024);
  EXPECT_EQ(rotation(R"({"format":"int8_tensorwise","convrot":true,"convrot_groupsize":4,"weight_rotated":true})"), 4);
}

TEST_F(LayerFormatsTest, TheTextOfAllLayers) {
  const auto of = [&](const std::string& layer, const std::string& tensor, const char* json = kConvRot) {
    std::string text = fmt::format(R"({{"format_version":"1.0","layers":{{"{}":{}}}}})", layer, json);
    for (size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2) text.insert(at, "\\");
    return LayerFormats(
        file({{tensor + ".weight", "I8", {2, 256}}, floats_of(tensor + ".weight_scale", {2, 1}, {1, 2})},
             R"({"_quantization_metadata":")" + text + "\"}"));
  };
  const std::string prefix = "model.diffusion_model.";
  EXPECT_EQ(of("a", "a").of("a.weight"), kRotatedRows);
  EXPECT_EQ(of(prefix + "a", "a").of("a.weight"), kRotatedRows);
  const StoredWeight prefixed = of("a", prefix + "a").of(prefix + "a.weight");
  EXPECT_EQ(prefixed.format, kRotatedRows.format);
  EXPECT_EQ(prefixed.scales, prefix + "a.weight_scale");
  EXPECT_EQ(of(prefix + "a", prefix + "a").of(prefix + "a.weight").format, kRotatedRows.format);
  EXPECT_EQ(of("a", "a").belonging(), (std::set<std::string, std::less<>>{"a.weight_scale"}));
  expect_error([&] { of("b", "a"); }, ErrorKind::model,
               {"_quantization_metadata", "layer 'b'", "no tensor 'b.weight'"});
  expect_error([&] { of("a", "a", "null"); }, ErrorKind::model, {"says nothing of the layer 'a'"});
  expect_error([&] { of("a", "a", "7"); }, ErrorKind::model, {"layers.a' is 7", "object"});
  expect_error([&] { of("a", "a", "{}"); }, ErrorKind::model, {"'layers.a.format' is missing"});
  const auto with = [&](const char* text) {
    LayerFormats(file({}, fmt::format(R"({{"_quantization_metadata":"{}"}})", text)));
  };
  expect_error([&] { with("{"); }, ErrorKind::model, {"_quantization_metadata", "not valid JSON"});
  expect_error([&] { with("{}"); }, ErrorKind::model, {"_quantization_metadata", "no field 'layers'"});
  expect_error([&] { with(R"({\"layers\":[]})"); }, ErrorKind::model, {"'layers' is []"});
  EXPECT_NO_THROW(with(R"({\"layers\":{}})"));
}

TEST_F(LayerFormatsTest, StatementsThatDifferAreRefused) {
  const auto made = [&](const char* json) {
    return LayerFormats(file({{"a.weight", "I8", {2, 256}}, float_of("a.weight_scale", 1.f), marker("a", json)},
                             R"({"_quantization_metadata":"{\"layers\":{\"a\":{\"format\":\"int8_tensorwise\"}}}"})"));
  };
  EXPECT_EQ(made(R"({"format":"int8_tensorwise"})").of("a.weight").format.type, StoredType::i8);
  expect_error([&] { made(kConvRot); }, ErrorKind::model,
               {"'a.weight'", "'a.comfy_quant'", "rotation 256", "_quantization_metadata", "rotation 0"});
  expect_error([&] { made(R"({"format":"float8_e4m3fn"})"); }, ErrorKind::model, {"float8_e4m3fn", "int8_tensorwise"});
}

TEST_F(LayerFormatsTest, TheOldMarker) {
  const auto made = [&](const char* marker_type, const char* type, const std::string& prefix = "") {
    return LayerFormats(file({{prefix + "scaled_fp8", marker_type, {2}},
                              {prefix + "a.weight", type, {2, 4}},
                              float_of(prefix + "a.scale_weight", 0.5f),
                              float_of(prefix + "a.scale_input", 1.f),
                              {prefix + "b.weight", "BF16", {2, 4}},
                              float_of(prefix + "b.scale_weight", 1.f)}));
  };
  const StoredWeight e4m3{{StoredType::f8_e4m3, WeightScales::one, 0}, "a.scale_weight"};
  const StoredWeight e5m2{{StoredType::f8_e5m2, WeightScales::one, 0}, "a.scale_weight"};
  EXPECT_EQ(made("F8_E4M3", "F8_E4M3").of("a.weight"), e4m3);
  EXPECT_EQ(made("F8_E5M2", "F8_E5M2").of("a.weight"), e5m2);
  EXPECT_EQ(made("F32", "F8_E4M3").of("a.weight"), e4m3);
  EXPECT_EQ(made("F32", "U8").of("a.weight"), e4m3);
  EXPECT_EQ(made("F8_E5M2", "U8").of("a.weight"), e5m2);
  EXPECT_EQ(made("F8_E4M3", "F8_E4M3", "p.").of("p.a.weight").scales, "p.a.scale_weight");
  EXPECT_EQ(made("F8_E4M3", "F8_E4M3").of("b.weight"), (StoredWeight{{StoredType::bf16, WeightScales::none, 0}, ""}))
      << "a scale of 1 beside a weight that stayed as it was";
  EXPECT_EQ(made("F32", "F8_E4M3").belonging(),
            (std::set<std::string, std::less<>>{"a.scale_input", "a.scale_weight", "b.scale_weight", "scaled_fp8"}));
  expect_error([&] { made("F8_E5M2", "F8_E4M3").of("a.weight"); }, ErrorKind::model,
               {"'a.weight' is F8_E4M3 [2, 4]", "'scaled_fp8' says F8_E5M2"});
  expect_error([&] { made("BF16", "F8_E4M3"); }, ErrorKind::model,
               {"'scaled_fp8' is BF16 [2]", "F8_E4M3 or F8_E5M2, or F32"});
  expect_error([&] { made("F8_E4M3", "BF16").of("a.weight"); }, ErrorKind::model,
               {"'a.weight' is BF16 [2, 4]", "'a.scale_weight'", "other numbers than 1"});
  expect_refused(file({{"a.weight", "U8", {4}}, float_of("a.scale_weight", 1.f)}), "a.weight",
                 {"'a.weight' is U8 [4]"});
}

TEST_F(LayerFormatsTest, TheOldMarkerWantsScalesOfAllMatrices) {
  const LayerFormats formats(file({{"x.scaled_fp8", "F8_E4M3", {2}},
                                   {"x.a.weight", "F8_E4M3", {2, 4}},
                                   {"x.norm.weight", "F8_E4M3", {4}},
                                   {"x.b.weight", "BF16", {2, 4}},
                                   {"y.a.weight", "F8_E4M3", {2, 4}}}));
  expect_error([&] { formats.of("x.a.weight"); }, ErrorKind::model,
               {"'x.a.weight' is F8_E4M3 [2, 4]", "'scaled_fp8'", "there is no tensor 'x.a.scale_weight'"});
  EXPECT_EQ(formats.of("x.norm.weight").format.scales, WeightScales::none);
  EXPECT_EQ(formats.of("x.b.weight").format.type, StoredType::bf16);
  EXPECT_EQ(formats.of("y.a.weight").format.scales, WeightScales::none) << "the marker speaks of x alone";
}

TEST_F(LayerFormatsTest, MarkersSpeakOfTheirPrefixAlone) {
  const LayerFormats formats(file({{"x.scaled_fp8", "F8_E5M2", {0}},
                                   {"x.a.weight", "U8", {1}},
                                   float_of("x.a.scale_weight", 1.f),
                                   {"x.y.scaled_fp8", "F8_E4M3", {0}},
                                   {"x.y.a.weight", "U8", {1}},
                                   float_of("x.y.a.scale_weight", 1.f),
                                   {"z.a.weight", "U8", {1}},
                                   float_of("z.a.scale_weight", 1.f),
                                   {"not_scaled_fp8", "BF16", {1}}}));
  EXPECT_EQ(formats.of("x.a.weight").format.type, StoredType::f8_e5m2);
  EXPECT_EQ(formats.of("x.y.a.weight").format.type, StoredType::f8_e4m3);
  expect_error([&] { formats.of("z.a.weight"); }, ErrorKind::model, {"'z.a.weight' is U8"});
  EXPECT_FALSE(formats.belonging().contains("not_scaled_fp8"));
}

TEST_F(LayerFormatsTest, EightBitFloatsWithoutMarker) {
  const LayerFormats formats(file({{"a.weight", "F8_E4M3", {2, 4}},
                                   float_of("a.weight_scale", 0.5f),
                                   float_of("a.input_scale", 0.5f),
                                   {"b.weight", "F8_E5M2", {2, 4}},
                                   {"c", "F8_E4M3", {4}},
                                   {"c_scale", "F32", {1, 2, 3}}}));
  EXPECT_EQ(formats.of("a.weight"), kFp8One);
  EXPECT_EQ(formats.of("b.weight"), (StoredWeight{{StoredType::f8_e5m2, WeightScales::none, 0}, ""}));
  EXPECT_EQ(formats.of("c"), (StoredWeight{{StoredType::f8_e4m3, WeightScales::none, 0}, ""}))
      << "c is no layer's weight";
  EXPECT_EQ(formats.belonging(), (std::set<std::string, std::less<>>{"a.input_scale", "a.weight_scale"}));
}

TEST_F(LayerFormatsTest, ScalesOfEveryShapeAndType) {
  const auto of = [&](const std::string& dtype, const std::vector<int64_t>& extents, const std::string& data = "",
                      const std::vector<int64_t>& weight = {3, 16}) {
    const LayerFormats formats(file({{"a.weight", "I8", weight},
                                     marker("a", R"({"format":"int8_tensorwise"})"),
                                     {"a.weight_scale", dtype, extents, data}}));
    const StoredWeight found = formats.of("a.weight");
    return std::pair(found, formats.scales(found));
  };
  for (const std::vector<int64_t>& one : {std::vector<int64_t>{}, {1}, {1, 1}})
    EXPECT_EQ(of("F32", one).first.format.scales, WeightScales::one);
  EXPECT_EQ(of("F32", {3}).first, kInt8Rows);
  EXPECT_EQ(of("F32", {3, 1}).first, kInt8Rows);
  EXPECT_EQ(of("F32", {3, 1}, "", {3, 4, 2, 2}).first, kInt8Rows);
  EXPECT_EQ(of("F32", {1}, "", {1, 16}).first.format.scales, WeightScales::one);
  EXPECT_EQ(of("BF16", {3}, number_bytes<uint16_t>(0x3f80) + number_bytes<uint16_t>(0xc020)).second,
            (std::vector<float>{1.f, -2.5f, 0.f}));
  EXPECT_EQ(of("F16", {3}, number_bytes<uint16_t>(0x3c00) + number_bytes<uint16_t>(0xc100)).second,
            (std::vector<float>{1.f, -2.5f, 0.f}));
  const auto refused = [&](const std::string& dtype, const std::vector<int64_t>& extents, const std::string& data,
                           std::initializer_list<std::string_view> parts,
                           const std::vector<int64_t>& weight = {3, 16}) {
    expect_error([&] { of(dtype, extents, data, weight); }, ErrorKind::model, parts);
  };
  refused("F32", {3, 2, 1}, "", {"'a.weight_scale' of 'a.weight' are F32 [3, 2, 1]", "musubi-tuner"});
  refused("F32", {1, 1, 1}, "", {"musubi-tuner"});
  refused("F32", {3, 2}, "", {"F32 [3, 2]", "each row of I8 [3, 16]"});
  refused("F32", {2}, "", {"F32 [2]", "each row of I8 [3, 16]"});
  refused("F32", {1, 3}, "", {"F32 [1, 3]"});
  refused("F32", {0}, "", {"F32 [0]"});
  refused("F32", {16}, "", {"F32 [16]", "I8 [16]"}, {16});
  refused("F8_E4M3", {3}, "", {"'a.weight_scale' are F8_E4M3 [3], must be F32, BF16 or F16"});
  refused("U8", {1}, "", {"'a.weight_scale' are U8 [1]"});
  for (const float wrong : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    refused("F32", {}, number_bytes(wrong), {"'a.weight_scale'", "finite"});
}

TEST_F(LayerFormatsTest, OtherFormatsAreNamedWhenTheyAreAskedFor) {
  for (const char* format : {"mxfp8", "nvfp4", "convrot_w4a4", "asym_w4a8_int8", "awq_w4a16", "of_tomorrow"}) {
    const TensorFile& made = file({{"a.weight", "U8", {2, 4}},
                                   marker("a", fmt::format(R"({{"format":"{}"}})", format)),
                                   {"a.weight_scale", "F8_E4M3", {2, 4}},
                                   {"b.weight", "BF16", {1}}});
    EXPECT_EQ(LayerFormats(made).of("b.weight").format.type, StoredType::bf16);
    EXPECT_EQ(LayerFormats(made).belonging().size(), 2u);
    expect_refused(made, "a.weight",
                   {"'a.weight' is stored as", format, "float8_e4m3fn, float8_e5m2 and int8_tensorwise"});
  }
  expect_refused(opened(GgufBytes().tensor("a.weight", {256}, 16, std::string(66, 'q')).bytes()), "a.weight",
                 {"'a.weight' is IQ2_XXS [256]", "IQ4_XS"});
}

TEST_F(LayerFormatsTest, ContradictionsAreRefused) {
  const auto made = [&](const char* dtype, const char* json,
                        const std::vector<int64_t>& extents = {2, 256}) -> const TensorFile& {
    return file({{"a.weight", dtype, extents}, marker("a", json), float_of("a.weight_scale", 1.f)});
  };
  expect_refused(made("BF16", kConvRot), "a.weight", {"'a.weight' is BF16 [2, 256]", "'a.comfy_quant'", "which is I8"});
  expect_refused(made("U8", kConvRot), "a.weight", {"'a.weight' is U8", "which is I8"});
  expect_refused(made("F8_E5M2", R"({"format":"float8_e4m3fn"})"), "a.weight",
                 {"'a.weight' is F8_E5M2", "which is F8_E4M3"});
  expect_refused(made("I8", R"({"format":"float8_e4m3fn"})"), "a.weight", {"'a.weight' is I8", "which is F8_E4M3"});
  expect_refused(made("I8", kConvRot, {2, 128}), "a.weight", {"'a.weight' is I8 [2, 128]", "blocks of 256 inputs"});
  expect_refused(made("I8", kConvRot, {256}), "a.weight", {"'a.weight' is I8 [256]", "must be a matrix"});
  expect_refused(made("I8", kConvRot, {2, 2, 256}), "a.weight", {"must be a matrix"});
  expect_refused(file({{"a.weight", "I8", {2, 4}}, marker("a", R"({"format":"int8_tensorwise"})")}), "a.weight",
                 {"'a.weight'", "scales are missing", "'a.weight_scale'"});
  expect_refused(file({{"a.weight", "I8", {2, 4}}, float_of("a.weight_scale", 1.f)}), "a.weight",
                 {"'a.weight' is I8 [2, 4]", "'a.comfy_quant'"});
  expect_refused(file({{"a.weight", "I8", {2, 4}}}), "a.weight", {"what its numbers mean"});
  expect_refused(
      file({{"a.weight", "F8_E4M3", {2, 4}}, float_of("a.weight_scale", 1.f), float_of("a.scale_weight", 1.f)}),
      "a.weight", {"scales twice", "'a.weight_scale' and 'a.scale_weight'"});
  expect_refused(file({{"a.weight", "BF16", {2, 4}}, float_of("a.weight_scale", 2.f)}), "a.weight",
                 {"'a.weight' is BF16 [2, 4]", "other numbers than 1"});
}

TEST_F(LayerFormatsTest, DamagedMarkersAreRefused) {
  const auto refused = [&](const std::string& json, std::initializer_list<std::string_view> parts) {
    SCOPED_TRACE(json);
    expect_refused(file({{"a.weight", "I8", {2, 256}}, marker("a", json), float_of("a.weight_scale", 1.f)}), "a.weight",
                   {"'a.comfy_quant'"});
    expect_refused(file({{"a.weight", "I8", {2, 256}}, marker("a", json), float_of("a.weight_scale", 1.f)}), "a.weight",
                   parts);
  };
  const auto convrot = [](const char* rest) {
    return fmt::format(R"({{"format":"int8_tensorwise","convrot":true,{}}})", rest);
  };
  refused("", {"not valid JSON"});
  refused("{", {"not valid JSON"});
  refused("[]", {"must hold a JSON object"});
  refused(std::string(100, '['), {"deeper"});
  refused("{}", {"'format' is missing"});
  refused(R"({"format":7})", {"'format' is 7"});
  refused(R"({"format":"int8_tensorwise","format":"nvfp4"})", {"'format' occurs twice"});
  refused(R"({"format":"int8_tensorwise","convrot":"yes"})", {"'convrot' is \"yes\"", "true or false"});
  refused(R"({"format":"int8_tensorwise","params":7})", {"'params' is 7"});
  refused(R"({"format":"int8_tensorwise","weight_rotated":true})", {"'weight_rotated' is true, but 'convrot' is not"});
  refused(convrot(R"("weight_rotated":false)"), {"'weight_rotated' is false, but 'convrot' is true"});
  refused(convrot(R"("convrot_groupsize":0)"), {"'convrot_groupsize' is 0"});
  refused(convrot(R"("convrot_groupsize":-4)"), {"'convrot_groupsize' is -4"});
  refused(convrot(R"("convrot_groupsize":1)"), {"is 1, must be a power of 4 from 4 to 4096"});
  refused(convrot(R"("convrot_groupsize":128)"), {"is 128, must be a power of 4"});
  refused(convrot(R"("convrot_groupsize":12)"), {"is 12, must be a power of 4"});
  refused(convrot(R"("convrot_groupsize":16384)"), {"is 16384, must be a power of 4 from 4 to 4096"});
  refused(convrot(R"("convrot_groupsize":256.0)"), {"256.0"});
  refused(convrot(R"("params":{"convrot_groupsize":8})"), {"'params.convrot_groupsize' is 8"});
  expect_refused(file({{"b.weight", "I8", {1}}, marker("a", kConvRot)}), "b.weight",
                 {"'a.comfy_quant' speaks of 'a.weight'", "has not"});
  expect_refused(file({{"a.weight", "I8", {1}}, {"a.comfy_quant", "I8", {2}, "{}"}}), "a.weight",
                 {"'a.comfy_quant' is I8 [2]", "U8 of one axis"});
  expect_refused(file({{"a.weight", "I8", {1}}, {"a.comfy_quant", "U8", {1, 2}, "{}"}}), "a.weight", {"U8 [1, 2]"});
  expect_refused(file({{"a.weight", "I8", {1}}, {"a.comfy_quant", "U8", {65537}, "{}"}}), "a.weight",
                 {"at most 65536 bytes"});
}

TEST_F(LayerFormatsTest, GgufFilesOfQ8Cr) {
  const auto of = [&](const std::string& json, std::vector<uint64_t> scale = {1, 2}) {
    GgufBytes bytes;
    bytes.text("comfy.gguf.quant.a.weight", json).tensor("a.weight", {256, 2}, 24, std::string(512, 'q'));
    if (!scale.empty()) bytes.tensor("a.weight_scale", scale, 0, number_bytes(0.5f) + number_bytes(2.f));
    return LayerFormats(opened(bytes.bytes()));
  };
  const std::string rotated =
      R"({"format":"int8_tensorwise","convrot":true,"weight_rotated":true,"per_row":true,"convrot_groupsize":256})";
  const LayerFormats formats = of(rotated);
  EXPECT_EQ(formats.of("a.weight"), kRotatedRows);
  EXPECT_EQ(formats.scales(formats.of("a.weight")), (std::vector<float>{0.5f, 2.f}));
  EXPECT_EQ(formats.belonging(), (std::set<std::string, std::less<>>{"a.weight_scale"}));
  EXPECT_EQ(of(rotated, {2}).of("a.weight"), kRotatedRows);
  EXPECT_EQ(of(kConvRot).of("a.weight"), kInt8Rows) << "older converters left the numbers unrotated";
  EXPECT_EQ(of(R"({"format":"int8_tensorwise","convrot":true,"weight_rotated":false})").of("a.weight"), kInt8Rows);
  EXPECT_EQ(of(R"({"format":"int8_tensorwise","convrot":false,"weight_rotated":false})").of("a.weight"), kInt8Rows);
  expect_error([&] { of(R"({"format":"int8_tensorwise","weight_rotated":true})"); }, ErrorKind::model,
               {"'comfy.gguf.quant.a.weight'", "'weight_rotated' is true"});
  expect_error([&] { of(R"({"format":"int4_cr","backing":"w4a4"})").of("a.weight"); }, ErrorKind::model,
               {"'a.weight' is stored as int4_cr", "'comfy.gguf.quant.a.weight'", "int8_tensorwise"});
  expect_error([&] { of(rotated, {}).of("a.weight"); }, ErrorKind::model, {"scales are missing"});
  expect_error([&] { of("{"); }, ErrorKind::model, {"'comfy.gguf.quant.a.weight'", "not valid JSON"});
  const TensorFile& other = opened(GgufBytes().text("comfy.gguf.quant.b", rotated).tensor("a", {1}, 0, "1234").bytes());
  expect_refused(other, "a", {"'comfy.gguf.quant.b' speaks of the tensor 'b'", "has not"});
  // The weight's name need not end in ".weight".
  GgufBytes any;
  any.text("comfy.gguf.quant.b", rotated).tensor("b", {256, 1}, 24, std::string(256, 'q'));
  any.tensor("b_scale", {1}, 0, number_bytes(2.f));
  const LayerFormats found(opened(any.bytes()));
  EXPECT_EQ(found.of("b"), (StoredWeight{{StoredType::i8, WeightScales::one, 256}, "b_scale"}));
  EXPECT_TRUE(found.belonging().contains("b_scale"));
}

}  // namespace
}  // namespace nostos
