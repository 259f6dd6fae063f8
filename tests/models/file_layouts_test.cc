// Tests that layouts find every tensor of a part in files that name them otherwise, each of their rows once.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "io/json_config.h"
#include "models/autoencoder_kl/file_layouts.h"
#include "models/autoencoder_kl/weights.h"
#include "models/flux2/file_layouts.h"
#include "models/flux2/weights.h"
#include "models/qwen3/file_layouts.h"
#include "models/qwen3/weights.h"
#include "models/synthetic_source.h"
#include "models/zimage/file_layouts.h"
#include "models/zimage/weights.h"

namespace nostos::test {
namespace {

const std::filesystem::path kModels = std::filesystem::path(NOSTOS_SOURCE_DIR) / "models";

/// \return the layout of a title, the last of them: of VAEs that with the fewest levels.
const CheckpointLayout& layout(std::span<const CheckpointLayout> layouts, std::string_view title) {
  const CheckpointLayout* found = nullptr;
  for (const CheckpointLayout& each : layouts)
    if (each.title == title) found = &each;
  if (found == nullptr) throw std::runtime_error("no such layout");
  return *found;
}

/// \return the names that a walk asks for.
template <class Walk>
std::vector<std::string> walked(const Walk& walk) {
  Context ctx({}, 1);
  const auto source = std::make_shared<ListingSource>();
  WeightBuilder builder(ctx, source, DType::bf16);
  walk(builder);
  std::vector<std::string> names;
  for (const auto& [name, shape] : source->shapes()) names.push_back(name);
  return names;
}

std::vector<std::string> zimage_names() {
  const zimage::Config config =
      zimage::load_config(JsonConfig::load(kModels / "z-image-turbo/transformer/config.json"));
  return walked([&](WeightBuilder& builder) { zimage::build_weights(config, builder); });
}

std::vector<std::string> flux2_names() {
  const flux2::Config config = flux2::load_config(JsonConfig::load(kModels / "flux2-klein-4b/transformer/config.json"));
  return walked([&](WeightBuilder& builder) { flux2::build_weights(config, builder); });
}

std::vector<std::string> qwen3_names() {
  const qwen3::Config config = qwen3::load_config(JsonConfig::load(kModels / "z-image-turbo/text_encoder/config.json"));
  return walked([&](WeightBuilder& builder) { qwen3::build_weights(config, builder); });
}

std::vector<std::string> vae_names() {
  const autoencoder_kl::Config config =
      autoencoder_kl::load_flux2_config(JsonConfig::load(kModels / "flux2-klein-4b/vae/config.json"));
  return walked([&](WeightBuilder& builder) { autoencoder_kl::build_weights(config, builder); });
}

/// Expects that the names find all rows of the file's tensors once, and none of a tensor that is not there.
/// \return the names of the file's tensors.
std::set<std::string> expect_whole(const CheckpointLayout& layout, const std::vector<std::string>& names) {
  std::map<std::string, std::pair<int64_t, std::set<int64_t>>> parts;  // how many, which were found
  for (const std::string& name : names) {
    for (const TensorRows& rows : layout.find(name)) {
      auto& [count, found] = parts[rows.name];
      EXPECT_TRUE(found.empty() || count == rows.parts) << name;
      count = rows.parts;
      EXPECT_TRUE(found.insert(rows.part).second) << name << ": twice part " << rows.part << " of " << rows.name;
    }
  }
  std::set<std::string> files;
  for (const auto& [name, entry] : parts) {
    const auto& [count, found] = entry;
    EXPECT_EQ(std::ssize(found), count) << name;
    EXPECT_EQ(*found.rbegin(), count - 1) << name;
    files.insert(name);
  }
  return files;
}

struct Found {
  const char* name;
  std::vector<TensorRows> rows;
};

void expect_found(const CheckpointLayout& layout, const std::vector<Found>& cases) {
  for (const Found& entry : cases) EXPECT_EQ(layout.find(entry.name), entry.rows) << entry.name;
}

TEST(FileLayouts, OfZImage) {
  const std::span layouts = zimage::file_layouts();
  expect_found(layout(layouts, "Z-Image's own"),
               {{"all_x_embedder.2-1.bias", {{"x_embedder.bias"}}},
                {"all_final_layer.4-1.adaLN_modulation.1.weight", {{"final_layer.adaLN_modulation.1.weight"}}},
                {"layers.29.attention.to_q.weight", {{"layers.29.attention.qkv.weight", 0, 3}}},
                {"noise_refiner.1.attention.to_k.weight", {{"noise_refiner.1.attention.qkv.weight", 1, 3}}},
                {"context_refiner.0.attention.to_v.weight", {{"context_refiner.0.attention.qkv.weight", 2, 3}}},
                {"layers.3.attention.to_out.0.weight", {{"layers.3.attention.out.weight"}}},
                {"layers.3.attention.norm_q.weight", {{"layers.3.attention.q_norm.weight"}}},
                {"layers.3.attention_norm1.weight", {{"layers.3.attention_norm1.weight"}}},
                {"cap_pad_token", {{"cap_pad_token"}}}});
  expect_found(layout(layouts, "stable-diffusion.cpp"),
               {{"all_x_embedder.2-1.weight", {{"x_embedder.weight"}}},
                {"layers.0.attention.to_q.weight", {{"layers.0.attention.qkv.weight"}}},
                {"layers.0.attention.to_k.weight", {{"layers.0.attention.qkv.weight.1"}}},
                {"layers.0.attention.to_v.weight", {{"layers.0.attention.qkv.weight.2"}}}});
  const std::vector<std::string> names = zimage_names();
  EXPECT_EQ(names.size(), 521u);
  EXPECT_EQ(expect_whole(layout(layouts, "Z-Image's own"), names).size(), 453u) << "as the published file has";
  EXPECT_EQ(expect_whole(layout(layouts, "stable-diffusion.cpp"), names).size(), 521u);
  EXPECT_EQ(expect_whole(layout(layouts, "diffusers"), names), std::set<std::string>(names.begin(), names.end()));
}

TEST(FileLayouts, OfFlux2) {
  const std::span layouts = flux2::file_layouts();
  expect_found(layout(layouts, "Black Forest Labs'"),
               {{"norm_out.linear.weight",
                 {{"final_layer.adaLN_modulation.1.weight", 1, 2}, {"final_layer.adaLN_modulation.1.weight", 0, 2}}},
                {"proj_out.weight", {{"final_layer.linear.weight"}}},
                {"transformer_blocks.4.attn.add_k_proj.weight", {{"double_blocks.4.txt_attn.qkv.weight", 1, 3}}},
                {"transformer_blocks.4.attn.to_v.weight", {{"double_blocks.4.img_attn.qkv.weight", 2, 3}}},
                {"transformer_blocks.4.attn.norm_added_q.weight", {{"double_blocks.4.txt_attn.norm.query_norm.scale"}}},
                {"transformer_blocks.0.ff_context.linear_in.weight", {{"double_blocks.0.txt_mlp.0.weight"}}},
                {"single_transformer_blocks.19.attn.to_out.weight", {{"single_blocks.19.linear2.weight"}}},
                {"single_transformer_blocks.19.attn.norm_k.weight", {{"single_blocks.19.norm.key_norm.scale"}}}});
  expect_found(layout(layouts, "ComfyUI"),
               {{"single_transformer_blocks.0.attn.norm_k.weight", {{"single_blocks.0.norm.key_norm.weight"}}}});
  const std::vector<std::string> names = flux2_names();
  EXPECT_EQ(names.size(), 169u);
  const std::set<std::string> native = expect_whole(layout(layouts, "Black Forest Labs'"), names);
  EXPECT_EQ(native.size(), 149u) << "20 projections less, of 5 double blocks";
  EXPECT_EQ(expect_whole(layout(layouts, "ComfyUI"), names).size(), 149u);
  for (const std::string& name : native) {
    EXPECT_TRUE(name.find("transformer_blocks") == std::string::npos) << name;
    EXPECT_TRUE(name.find("_norm.weight") == std::string::npos) << name;
  }
}

TEST(FileLayouts, OfQwen3) {
  const CheckpointLayout& llama_cpp = layout(qwen3::file_layouts(), "llama.cpp");
  expect_found(llama_cpp, {{"norm.weight", {{"output_norm.weight"}}},
                           {"layers.35.self_attn.o_proj.weight", {{"blk.35.attn_output.weight"}}},
                           {"layers.35.post_attention_layernorm.weight", {{"blk.35.ffn_norm.weight"}}}});
  const std::set<std::string> files = expect_whole(llama_cpp, qwen3_names());
  EXPECT_EQ(files.size(), 398u) << "as Qwen3-4B's published GGUF files have";
  for (const std::string& name : files)
    EXPECT_TRUE(name.starts_with("blk.") || name == "token_embd.weight" || name == "output_norm.weight") << name;
}

TEST(FileLayouts, OfAutoencoders) {
  const std::span layouts = autoencoder_kl::file_layouts();
  const auto has = [](std::set<std::string> names) {
    return [names = std::move(names)](const std::string& name) { return names.contains(name); };
  };
  const auto found = [&](std::set<std::string> names) {
    const auto at = find_layout(has(std::move(names)), layouts, autoencoder_kl::file_prefixes());
    return at ? *at->layout : CheckpointLayout{"none", "", find_as_named, {}};
  };
  const CheckpointLayout three = found(
      {"decoder.up.0.block.0.norm1.weight", "decoder.up.1.block.0.norm1.weight", "decoder.up.2.block.0.norm1.weight"});
  EXPECT_EQ(three.title, "latent diffusion");
  expect_found(three,
               {{"decoder.up_blocks.0.resnets.2.conv_shortcut.bias", {{"decoder.up.2.block.2.nin_shortcut.bias"}}},
                {"decoder.up_blocks.2.resnets.0.norm1.weight", {{"decoder.up.0.block.0.norm1.weight"}}},
                {"decoder.up_blocks.1.upsamplers.0.conv.weight", {{"decoder.up.1.upsample.conv.weight"}}},
                {"encoder.down_blocks.0.resnets.1.conv2.bias", {{"encoder.down.0.block.1.conv2.bias"}}},
                {"encoder.down_blocks.1.downsamplers.0.conv.bias", {{"encoder.down.1.downsample.conv.bias"}}},
                {"encoder.mid_block.resnets.0.norm2.bias", {{"encoder.mid.block_1.norm2.bias"}}},
                {"decoder.mid_block.resnets.1.conv1.bias", {{"decoder.mid.block_2.conv1.bias"}}},
                {"decoder.mid_block.attentions.0.to_out.0.bias", {{"decoder.mid.attn_1.proj_out.bias"}}},
                {"encoder.conv_norm_out.weight", {{"encoder.norm_out.weight"}}},
                {"post_quant_conv.weight", {{"post_quant_conv.weight"}}},
                {"bn.running_var", {{"bn.running_var"}}}});
  const std::vector<std::string> names = vae_names();
  std::set<std::string> marks{"vae.decoder.post_quant_conv.weight"};
  for (const char* level : {"0", "1", "2", "3"})
    marks.insert("vae.decoder.up." + std::string(level) + ".block.0.norm1.weight");
  const CheckpointLayout flux2 = found(marks);
  EXPECT_EQ(flux2.title, "FLUX.2's own");
  expect_found(flux2, {{"decoder.up_blocks.0.resnets.0.norm1.weight", {{"decoder.up.3.block.0.norm1.weight"}}},
                       {"quant_conv.weight", {{"encoder.quant_conv.weight"}}},
                       {"post_quant_conv.bias", {{"decoder.post_quant_conv.bias"}}}});
  const std::set<std::string> files = expect_whole(flux2, names);
  EXPECT_EQ(files.size(), names.size());
  EXPECT_TRUE(std::none_of(files.begin(), files.end(),
                           [](const std::string& name) { return name.find("_block") != std::string::npos; }));
  expect_found(
      layout(layouts, "old diffusers"),
      {{"encoder.mid_block.attentions.0.to_out.0.weight", {{"encoder.mid_block.attentions.0.proj_attn.weight"}}},
       {"encoder.mid_block.attentions.0.group_norm.bias", {{"encoder.mid_block.attentions.0.group_norm.bias"}}}});
}

// Each file of a layout is known as one of it, under every prefix; a file of another model is of none.
TEST(FileLayouts, AreFoundByTheirMarks) {
  struct Model {
    std::span<const CheckpointLayout> layouts;
    std::span<const std::string_view> prefixes;
    std::vector<std::string> names;
  };
  const std::vector<Model> models = {
      {zimage::file_layouts(), zimage::file_prefixes(), zimage_names()},
      {flux2::file_layouts(), flux2::file_prefixes(), flux2_names()},
      {qwen3::file_layouts(), qwen3::file_prefixes(), qwen3_names()},
      {autoencoder_kl::file_layouts(), autoencoder_kl::file_prefixes(), vae_names()},
  };
  for (const Model& model : models) {
    for (const CheckpointLayout& layout : model.layouts) {
      const bool has_other_levels = layout.mark.starts_with("decoder.up.") && !layout.mark.starts_with("decoder.up.3.");
      if (has_other_levels) continue;
      for (const std::string_view prefix : model.prefixes) {
        std::set<std::string> files;
        for (const std::string& name : model.names)
          for (const TensorRows& rows : layout.find(name)) files.insert(std::string(prefix) + rows.name);
        const auto has = [&](const std::string& name) { return files.contains(name); };
        for (const Model& other : models) {
          const std::optional<FoundLayout> found = find_layout(has, other.layouts, other.prefixes);
          ASSERT_EQ(found.has_value(), other.layouts.data() == model.layouts.data()) << layout.title << " " << prefix;
          if (!found) continue;
          EXPECT_EQ(found->layout, &layout) << layout.title << " was found as " << found->layout->title;
          EXPECT_EQ(found->prefix, prefix);
        }
      }
    }
  }
}

/// Expects that a layout finds the tensors of a part of a tiny model as other code names and stacks them.
/// \param listed {name in the file: names in the folder, from top to bottom}; NAME#0 is the first of NAME's pieces
void expect_as_listed(const CheckpointLayout& layout, const nlohmann::json& listed) {
  const auto without_model = [](const std::string& name) { return name.starts_with("model.") ? name.substr(6) : name; };
  std::set<std::string> names;
  for (const auto& [file, parts] : listed.items())
    for (const std::string part : parts) names.insert(without_model(part.substr(0, part.find('#'))));
  std::map<std::string, std::map<int64_t, std::string>> found;
  for (const std::string& name : names) {
    const std::vector<TensorRows> rows = layout.find(name);
    for (size_t i = 0; i < rows.size(); ++i)
      found[rows[i].name][rows[i].part] = rows.size() == 1 ? name : name + "#" + std::to_string(i);
  }
  std::map<std::string, std::map<int64_t, std::string>> wanted;
  for (const auto& [file, parts] : listed.items())
    for (const std::string part : parts) {
      auto& of_file = wanted[file];
      of_file[std::ssize(of_file)] = without_model(part);
    }
  EXPECT_EQ(found, wanted) << layout.title;
}

TEST(FileLayouts, AgreeWithNamesMadeByOtherCode) {
  const auto read = [](const char* model) {
    std::ifstream file(std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/file_names" / model);
    return nlohmann::json::parse(file);
  };
  struct Case {
    const char* names;
    std::span<const CheckpointLayout> layouts;
    const char* title;
  };
  const auto compare = [&](const nlohmann::json& part, const std::vector<Case>& cases) {
    ASSERT_EQ(part.size(), cases.size());
    for (const Case& entry : cases) {
      const nlohmann::json& listed = part.at(entry.names);
      const auto has = [&](const std::string& name) { return listed.contains(name); };
      const std::optional<FoundLayout> found = find_layout(has, entry.layouts, std::array<std::string_view, 1>{""});
      ASSERT_TRUE(found && found->layout->title == entry.title) << entry.title;
      expect_as_listed(*found->layout, listed);
    }
  };
  const nlohmann::json zimage = read("zimage.json"), flux2 = read("flux2.json");
  compare(zimage.at("transformer"), {{"native", zimage::file_layouts(), "Z-Image's own"},
                                     {"counted", zimage::file_layouts(), "stable-diffusion.cpp"}});
  compare(flux2.at("transformer"),
          {{"native", flux2::file_layouts(), "Black Forest Labs'"}, {"comfy", flux2::file_layouts(), "ComfyUI"}});
  for (const nlohmann::json& model : {zimage, flux2})
    compare(model.at("text_encoder"), {{"llama_cpp", qwen3::file_layouts(), "llama.cpp"}});
  const std::span layouts = autoencoder_kl::file_layouts();
  compare(zimage.at("vae"), {{"native", layouts, "latent diffusion"}, {"old", layouts, "old diffusers"}});
  compare(flux2.at("vae"), {{"native", layouts, "latent diffusion"},
                            {"old", layouts, "old diffusers"},
                            {"nested", layouts, "FLUX.2's own"}});
}

TEST(FileLayouts, RulesFillInWhatTheirWildCardsStandFor) {
  constexpr std::array kRules{NameRule{"a.#.*.x.#", "#-*-#"}, NameRule{"a.#.*", "up.~.*", 1, 2},
                              NameRule{"a.#.*", "b.#", 0, 2}, NameRule{"*b", "*"}};
  using Rows = std::vector<TensorRows>;
  EXPECT_EQ(find_by_rules(kRules, "a.12.y.x.3"), (Rows{{"12-y-3"}}));
  EXPECT_EQ(find_by_rules(kRules, "a.1.y.z", 3), (Rows{{"up.2.y.z", 1, 2}, {"b.1", 0, 2}})) << "one under the other";
  EXPECT_EQ(find_by_rules(kRules, "bb"), (Rows{{"b"}}));
  EXPECT_EQ(find_by_rules(kRules, "a..y"), (Rows{{"a..y"}})) << "# stands for one digit at least";
  EXPECT_EQ(find_by_rules(kRules, "a.1."), (Rows{{"a.1."}})) << "* stands for some text";
  EXPECT_EQ(find_by_rules(kRules, ""), (Rows{{""}}));
}

}  // namespace
}  // namespace nostos::test
