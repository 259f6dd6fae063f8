// Tests drawings from GGUF files as users have them: a transformer with the names of ComfyUI's files and a text encoder
// with llama.cpp's, both of mixed types as Q4_K_M mixes them, the tokenizer in the latter, and a file of the VAE. The
// pictures are those of the folder with the numbers that the files stand for, and the same on any number of ranks.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/file.h"
#include "io/gguf_bytes.h"
#include "io/safetensors.h"
#include "models/qwen3/weights.h"
#include "models/synthetic_source.h"
#include "models/zimage/weights.h"
#include "ops/elementwise.h"
#include "ops/stored_weight.h"
#include "pipeline/drawing_device.h"
#include "pipeline/engine.h"
#include "tensor/half.h"
#include "text/gguf_of_tokenizer.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;
using Json = nlohmann::json;

const Path kTiny = repository() / "tests/data/tiny/diffusers_test";

/// \return ggml's number of the type, from ggml.h.
uint32_t ggml_number(StoredType type) {
  static const std::map<StoredType, uint32_t> kNumbers{
      {StoredType::f32, 0},   {StoredType::f16, 1},   {StoredType::q8_0, 8}, {StoredType::q4_k, 12},
      {StoredType::q5_k, 13}, {StoredType::q6_k, 14}, {StoredType::bf16, 30}};
  return kNumbers.at(type);
}

/// What is said first of the names that hold `word` counts.
struct TypeRule {
  std::string_view word;
  StoredType type;
};
constexpr TypeRule kTransformerTypes[]{
    {"noise_refiner.0.attention.to_", StoredType::q6_k},
    {"context_refiner.0.feed_forward.w2", StoredType::q5_k},
    {"feed_forward.w2", StoredType::q6_k},
    {"adaLN_modulation", StoredType::q8_0},
    {"t_embedder", StoredType::f16},
    {"all_x_embedder", StoredType::bf16},  // 64 numbers a row
    {"all_final_layer.2-1.linear", StoredType::f32},
    {"", StoredType::q4_k},
};
constexpr TypeRule kTextEncoderTypes[]{{"embed_tokens", StoredType::q6_k},
                                       {"v_proj", StoredType::q6_k},
                                       {"down_proj", StoredType::q6_k},
                                       {"", StoredType::q4_k}};

/// A tensor as a file stores it, and the numbers that it stands for.
struct MadeTensor {
  std::string bytes;
  StoredType type;
  Tensor numbers;  ///< f32
};

std::string bytes_of(const void* data, size_t size) { return {static_cast<const char*>(data), size}; }

MadeTensor make_plain(Context& ctx, const std::string& name, const Shape& shape, StoredType type) {
  MadeTensor made{{}, type, Tensor(Device{}, DType::f32, shape)};
  SyntheticSource source(ctx);
  ops::convert(ctx, source.tensor(name, shape), made.numbers.view());
  float* numbers = made.numbers.data<float>();
  for (int64_t i = 0; i < shape.elements(); ++i) {  // the synthetic ones are bf16 numbers
    if (type == StoredType::f32) made.bytes += number_bytes(numbers[i]);
    if (type == StoredType::bf16) made.bytes += number_bytes(to_bfloat16(numbers[i]).bits);
    if (type != StoredType::f16) continue;
    const uint16_t half = to_half(numbers[i]);
    made.bytes += number_bytes(half);
    numbers[i] = half_to_float(half);
  }
  return made;
}

MadeTensor make_tensor(Context& ctx, const std::string& name, const Shape& shape, std::span<const TypeRule> rules) {
  const bool is_matrix = shape.rank() == 2 && shape[0] > 1;  // norms, biases and pad tokens stay F32
  const auto rule =
      std::ranges::find_if(rules, [&](const TypeRule& each) { return name.find(each.word) != name.npos; });
  const StoredType type = is_matrix ? rule->type : StoredType::f32;
  if (plain_dtype(type)) return make_plain(ctx, name, shape, type);
  SyntheticSource source(ctx, WeightFormat{type});
  const StoredMatrix matrix = source.matrix(name, shape).front();
  EXPECT_EQ(matrix.format.type, type) << name << ": its rows do not end where blocks end";
  MadeTensor made{bytes_of(matrix.data, matrix.size_in_bytes()), type, Tensor(Device{}, DType::f32, shape)};
  ops::dequantise(ctx, std::array{StoredPiece{matrix, 0, matrix.rows, matrix.rows}}, made.numbers.view());
  return made;
}

using Renames = std::span<const std::pair<std::string_view, std::string_view>>;

std::string renamed(std::string name, Renames renames) {
  for (const auto& [from, to] : renames)
    if (const size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  return name;
}

// As ComfyUI's files name a Z-Image transformer. Three projections are one tensor: queries, keys and values from top to
// bottom.
constexpr std::pair<std::string_view, std::string_view> kZImageNames[]{
    {"all_x_embedder.2-1.", "x_embedder."},     {"all_final_layer.2-1.", "final_layer."},
    {"attention.norm_q.", "attention.q_norm."}, {"attention.norm_k.", "attention.k_norm."},
    {"attention.to_out.0.", "attention.out."},  {"attention.to_q.", "attention.qkv."},
    {"attention.to_k.", "attention.qkv."},      {"attention.to_v.", "attention.qkv."}};
// As llama.cpp's converter names Qwen3.
constexpr std::pair<std::string_view, std::string_view> kQwen3Names[]{{"embed_tokens.", "token_embd."},
                                                                      {"layers.", "blk."},
                                                                      {"post_attention_layernorm.", "ffn_norm."},
                                                                      {"input_layernorm.", "attn_norm."},
                                                                      {"self_attn.q_proj.", "attn_q."},
                                                                      {"self_attn.k_proj.", "attn_k."},
                                                                      {"self_attn.v_proj.", "attn_v."},
                                                                      {"self_attn.o_proj.", "attn_output."},
                                                                      {"self_attn.q_norm.", "attn_q_norm."},
                                                                      {"self_attn.k_norm.", "attn_k_norm."},
                                                                      {"mlp.gate_proj.", "ffn_gate."},
                                                                      {"mlp.up_proj.", "ffn_up."},
                                                                      {"mlp.down_proj.", "ffn_down."}};

std::string file_name(const std::string& name, Renames renames) {
  return name == "norm.weight" ? "output_norm.weight" : renamed(name, renames);
}

void write_text(const Path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  write_file_atomically(file, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

class GgufFiles : public testing::Test {
 protected:
  GgufFiles() : dir_(Path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(folder());
    for (const char* part : {"tokenizer", "vae"})
      std::filesystem::copy(kTiny / part, folder() / part, std::filesystem::copy_options::recursive);
    std::filesystem::copy(kTiny / "model_index.json", folder());
    // What a file of a published model leaves to nostos.
    write_text(folder() / "scheduler/scheduler_config.json",
               Json{{"_class_name", "FlowMatchEulerDiscreteScheduler"}, {"shift", 3}}.dump());
    write_transformer();
    write_text_encoder();
    write_vae();
  }
  ~GgufFiles() override { std::filesystem::remove_all(dir_); }

  /// The model with the numbers.
  Path folder() const { return dir_ / "model"; }

  /// \return a drawing of the three files.
  Generation drawn_of_files(int ranks) const {
    ModelFiles files;
    files.transformer = dir_ / "z_image-Q4_K_M.gguf";
    files.text_encoder = dir_ / "Qwen3-Q4_K_M.gguf";
    files.vae = dir_ / "ae.safetensors";
    return drawn(files, ranks);
  }

  static Generation drawn(const ModelFiles& model, int ranks) {
    EngineOptions options;
    options.model = model;
    options.device = drawing_device();
    options.precision = Precision::f32;
    options.parallelism.ulysses = ranks;
    options.threads = 2;
    GenerationRequest request;
    request.prompt = "a boat in a harbour";
    request.negative_prompt = "rain";
    request.height = 40;
    request.width = 24;
    request.num_inference_steps = 2;
    request.guidance_scale = 2;
    request.max_sequence_length = 48;
    return Engine(options).generate(request);
  }

 private:
  /// Adds the tensors of a part to the GGUF file, and writes them as numbers into the folder.
  void write_part(GgufBytes& file, const std::map<std::string, Shape>& shapes, std::span<const TypeRule> rules,
                  Renames names, const Path& numbers) {
    Context ctx({}, 2);
    std::map<std::string, MadeTensor> made;
    std::map<std::string, std::vector<std::string>> in_file;  // the tensors that each is made of, from top to bottom
    for (const auto& [name, shape] : shapes) {
      made.emplace(name, make_tensor(ctx, name, shape, rules));
      in_file[file_name(name, names)].push_back(name);
    }
    for (auto& [name, parts] : in_file) {
      if (parts.size() == 3) std::swap(parts[0], parts[1]);  // keys come before queries in the alphabet alone
      const StoredType type = made.at(parts.front()).type;
      std::vector<uint64_t> extents;
      const Shape& shape = shapes.at(parts.front());
      for (int axis = shape.rank() - 1; axis >= 0; --axis) extents.push_back(static_cast<uint64_t>(shape[axis]));
      extents.back() *= parts.size();
      std::string bytes;
      for (const std::string& part : parts) bytes += made.at(part).bytes;
      file.tensor(name, extents, ggml_number(type), bytes);
    }
    std::vector<NamedTensor> tensors;
    for (const auto& [name, tensor] : made) tensors.push_back({name, tensor.numbers.view()});
    write_safetensors(numbers, tensors);
  }

  template <class Build>
  static std::map<std::string, Shape> list(const Build& build) {
    Context ctx;
    const auto listed = std::make_shared<ListingSource>();
    WeightBuilder builder(ctx, listed, DType::f32);
    build(builder);
    return listed->shapes();
  }

  void write_transformer() {
    // As wide as heads of 128 and feed-forward layers of 8 / 3 the width allow, where all rows are whole blocks.
    const Json config{{"_class_name", "ZImageTransformer2DModel"},
                      {"in_channels", 16},
                      {"dim", 768},
                      {"n_layers", 1},
                      {"n_refiner_layers", 1},
                      {"n_heads", 6},
                      {"cap_feat_dim", 256},
                      {"axes_dims", {32, 48, 48}},
                      {"axes_lens", {1536, 512, 512}}};
    write_text(folder() / "transformer/config.json", config.dump());
    const auto shapes = list([&](WeightBuilder& builder) {
      zimage::build_weights(zimage::load_config(JsonConfig::parse(config.dump(), "config")), builder);
    });
    GgufBytes file;
    file.text("general.architecture", "lumina2");
    write_part(file, shapes, kTransformerTypes, kZImageNames,
               folder() / "transformer/diffusion_pytorch_model.safetensors");
    write_text(dir_ / "z_image-Q4_K_M.gguf", file.bytes());
  }

  void write_text_encoder() {
    constexpr size_t kRows = 323;  // the tokens of the tiny tokenizer
    const Json config{{"architectures", {"Qwen3Model"}},
                      {"model_type", "qwen3"},
                      {"vocab_size", kRows},
                      {"hidden_size", 256},
                      {"intermediate_size", 512},
                      {"num_hidden_layers", 3},
                      {"num_attention_heads", 2},
                      {"num_key_value_heads", 1},
                      {"head_dim", 128},
                      {"rms_norm_eps", 1e-3},
                      {"rope_theta", 10000}};
    write_text(folder() / "text_encoder/config.json", config.dump());
    const auto shapes = list([&](WeightBuilder& builder) {
      qwen3::build_weights(qwen3::load_config(JsonConfig::parse(config.dump(), "config")), builder);
    });
    GgufBytes file = GgufTokenizer(read_tokenizer_files(kTiny / "tokenizer"), kRows).file();
    file.text("general.architecture", "qwen3");
    file.key("qwen3.rope.freq_base", GgufType::f32, number_bytes(10000.f));
    file.key("qwen3.attention.layer_norm_rms_epsilon", GgufType::f32, number_bytes(1e-3f));
    write_part(file, shapes, kTextEncoderTypes, kQwen3Names, folder() / "text_encoder/model.safetensors");
    write_text(dir_ / "Qwen3-Q4_K_M.gguf", file.bytes());
  }

  void write_vae() {
    // No published VAE is small: the file says its config as those of `nostos convert` do.
    const SafetensorsFile source(kTiny / "vae/diffusion_pytorch_model.safetensors");
    std::vector<NamedTensor> tensors;
    for (const auto& [name, info] : source.tensors()) tensors.push_back({name, source.tensor(name)});
    write_safetensors(dir_ / "ae.safetensors", tensors,
                      {{"config.vae", JsonConfig::load(kTiny / "vae/config.json").dump()}});
  }

  const Path dir_;
};

std::span<const float> latents_of(const Generation& generation) {
  const Tensor& latents = generation.pictures.at(0).latents;
  return {latents.data<float>(), static_cast<size_t>(latents.shape().elements())};
}

TEST_F(GgufFiles, DrawThePicturesOfTheirNumbersOnAnyNumberOfRanks) {
  const Generation stored = drawn_of_files(1), numbers = drawn(folder(), 1);
  const auto a = latents_of(stored), b = latents_of(numbers);
  ASSERT_EQ(a.size(), b.size());
  float largest = 0, apart = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_TRUE(std::isfinite(a[i]));
    largest = std::max(largest, std::abs(b[i]));
    apart = std::max(apart, std::abs(a[i] - b[i]));
  }
  RecordProperty("apart", fmt::format("{:.2e}", apart / largest));
  EXPECT_LE(apart, 1e-5f * largest);
  const auto &rgb = stored.pictures.at(0).image.rgb, &rgb_of_numbers = numbers.pictures.at(0).image.rgb;
  ASSERT_EQ(rgb.size(), rgb_of_numbers.size());
  for (size_t i = 0; i < rgb.size(); ++i) ASSERT_LE(std::abs(rgb[i] - rgb_of_numbers[i]), 1) << i;
  for (const int ranks : {2, 3}) {
    const Generation shared = drawn_of_files(ranks);
    EXPECT_TRUE(std::ranges::equal(latents_of(shared), a)) << ranks << " ranks";
    EXPECT_EQ(shared.pictures.at(0).image.rgb, rgb) << ranks << " ranks";
  }
}

}  // namespace
}  // namespace nostos
