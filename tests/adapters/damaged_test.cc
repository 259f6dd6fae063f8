// Tests adapter files that are damaged, hostile or made for another model: each is refused by name.
#include <gtest/gtest.h>

#include <limits>

#include "adapters/adapter.h"
#include "adapters/adapter_models.h"
#include "adapters/memory_file.h"

namespace nostos::test {
namespace {

const std::string kModule = "layers.0.attention.to_q";

class DamagedAdapter : public testing::Test {
 protected:
  DamagedAdapter() {
    file_.add(kModule + ".lora_A.weight", {4, 40});
    file_.add(kModule + ".lora_B.weight", {40, 4});
  }

  /// Expects that the file is refused with a message of these parts, which names the file.
  void expect_refused(std::initializer_list<std::string_view> parts) {
    const std::string message = message_of([&] { read_adapter(file_, targets_); });
    EXPECT_NE(message.find("adapter.safetensors"), std::string::npos) << message;
    for (const std::string_view part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << message << "\n lacks " << part;
  }

  AdapterTargets targets_ = zimage_targets(tiny_zimage());
  MemoryFile file_;
};

TEST_F(DamagedAdapter, IsReadAsItIs) { EXPECT_EQ(read_adapter(file_, targets_).updates.size(), 1u); }

TEST_F(DamagedAdapter, RanksDiffer) {
  file_.add(kModule + ".lora_B.weight", {40, 5});
  expect_refused({"lora_B.weight' F32 [40, 5]", "lora_A.weight' [4, 40]", "differ in rank"});
}

TEST_F(DamagedAdapter, HalfIsMissing) {
  file_.remove(kModule + ".lora_B.weight");
  expect_refused({"lora_A.weight", "no counterpart"});
  file_ = MemoryFile();
  file_.add(kModule + ".lokr_w1", {4, 5});
  expect_refused({"lokr_w1", "second LoKr factor"});
  file_ = MemoryFile();
  for (const char* name : {".hada_w1_a", ".hada_w1_b", ".hada_w2_a"})
    file_.add(kModule + name, name[9] == 'a' ? std::vector<int64_t>{40, 2} : std::vector<int64_t>{2, 40});
  expect_refused({"hada_w2_a", "no counterpart", "second LoHa factor"});
}

TEST_F(DamagedAdapter, StandsAlone) {
  file_ = MemoryFile();
  file_.add(kModule + ".dora_scale", {40, 1});
  expect_refused({"dora_scale", "stands alone"});
}

TEST_F(DamagedAdapter, NoMatrix) {
  for (const std::vector<int64_t>& extents :
       {std::vector<int64_t>{}, {4, 40, 3}, {4, 40, 1, 3}, {0, 40}, {4, 0}, {1, 4, 40}}) {
    file_.add(kModule + ".lora_A.weight", extents);
    expect_refused({"lora_A.weight", "is no matrix"});
  }
}

TEST_F(DamagedAdapter, AbsurdRank) {
  file_.add(kModule + ".lora_A.weight", {4096, 40});
  file_.add(kModule + ".lora_B.weight", {40, 4096});
  expect_refused({"rank 4096"});
}

TEST_F(DamagedAdapter, FactorsOfTooLargeAProduct) {
  file_ = MemoryFile();
  // What a header may say without the data for it: shapes are looked at before any number is.
  const int64_t most = std::numeric_limits<int64_t>::max();
  file_.add(kModule + ".lokr_w1", "F32", {most, 1}, {});
  file_.add(kModule + ".lokr_w2", "F32", {most, 1}, {});
  expect_refused({"lokr_w2", "2^31"});
}

TEST_F(DamagedAdapter, OfNoTypeThatIsRead) {
  for (const char* dtype : {"I8", "U8", "BOOL", "Q4_K", "I64"}) {
    file_.add(kModule + ".lora_A.weight", dtype, {4, 40}, std::vector<std::byte>(160));
    expect_refused({"lora_A.weight", dtype, "F8_E4M3"});
  }
}

TEST_F(DamagedAdapter, NotFinite) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
    file_.add(kModule + ".lora_A.weight", {4, 40}, value);
    expect_refused({"lora_A.weight", fmt::format("{} at [0, 0]", value), "must be finite"});
  }
  file_.add(kModule + ".lora_A.weight", {4, 40});
  std::vector<std::byte> last(160 * sizeof(uint16_t));  // halves, of which the last is infinite
  last.back() = std::byte{0x7c};
  file_.add(kModule + ".lora_B.weight", "F16", {40, 4}, last);
  expect_refused({"lora_B.weight", "inf at [39, 3]"});
}

TEST_F(DamagedAdapter, Alpha) {
  file_.add(kModule + ".alpha", {2});
  expect_refused({"alpha", "one number"});
  file_.add(kModule + ".alpha", {1}, std::numeric_limits<float>::infinity());
  expect_refused({"alpha", "finite"});
  file_.add(kModule + ".alpha", "I64", {1, 1}, std::vector<std::byte>{std::byte{8}, {}, {}, {}, {}, {}, {}, {}});
  EXPECT_EQ(read_adapter(file_, targets_).updates.at(0).scale, 2);
}

TEST_F(DamagedAdapter, TwiceTheSame) {
  file_.add(kModule + ".lora_down.weight", {4, 40});
  expect_refused({"lora_A.weight", "lora_down.weight", "mean the same"});
  file_.remove(kModule + ".lora_down.weight");
  file_.add("transformer." + kModule + ".lora_A.weight", {4, 40});
  file_.add("transformer." + kModule + ".lora_B.weight", {40, 4});
  expect_refused({"layers_0_attention_to_q", "transformer_layers_0_attention_to_q", "same weight"});
}

TEST_F(DamagedAdapter, OfTwoKinds) {
  file_.add(kModule + ".lokr_w1", {4, 5});
  file_.add(kModule + ".lokr_w2", {10, 8});
  expect_refused({"both LoRA and LoKr"});
  file_ = MemoryFile();
  file_.add(kModule + ".lokr_w1", {4, 5});
  file_.add(kModule + ".lokr_w1_a", {4, 5});
  file_.add(kModule + ".lokr_w2", {10, 8});
  expect_refused({"lokr_w1", "in whole and in factors"});
}

TEST_F(DamagedAdapter, KindsThatAreNotKnown) {
  for (const auto& [name, kind] : std::map<std::string, std::string>{{".lokr_t2", "LoKr with a Tucker core"},
                                                                     {".hada_t1", "LoHa with a Tucker core"},
                                                                     {".lora_mid.weight", "lora_mid"},
                                                                     {".oft_blocks", "OFT"}}) {
    file_.add(kModule + name, {2, 2});
    expect_refused({name, kind});
    file_.remove(kModule + name);
  }
}

TEST_F(DamagedAdapter, ABiasThatTheModelLacks) {
  file_.add(kModule + ".diff_b", {40});
  expect_refused({"diff_b", "Z-Image lacks"});
}

TEST_F(DamagedAdapter, LengthsThatFitNothing) {
  file_.add(kModule + ".dora_scale", {39, 1});
  expect_refused({"dora_scale", "[40, 40]"});
  file_ = MemoryFile();
  file_.add("layers.0.attention.qkv.lora_A.weight", {4, 40});
  file_.add("layers.0.attention.qkv.lora_B.weight", {120, 4});
  file_.add("layers.0.attention.qkv.dora_scale", {1, 40});
  expect_refused({"dora_scale", "several matrices"});
}

TEST_F(DamagedAdapter, NothingMatches) {
  file_ = MemoryFile();
  expect_refused({"no tensors"});
  file_.add("lora_unet_input_blocks_1_1_proj_in.lora_down.weight", {4, 320});
  file_.add("lora_unet_input_blocks_1_1_proj_in.lora_up.weight", {320, 4});
  expect_refused({"none of its 2 tensors is for Z-Image", "Stable Diffusion or SDXL", "input_blocks_1_1_proj_in"});
  file_ = MemoryFile();
  file_.add("something", {1});
  expect_refused({"is no adapter", "none of its 1 tensors", "something"});
  file_ = MemoryFile();
  file_.add("noise_refiner.0.attention.to_q.weight", {40, 40});
  expect_refused({"is no adapter", "tensors is called as those of adapters are: noise_refiner.0"});
  file_ = MemoryFile();
  file_.add("noise_refiner_x.lora_A.weight", {4, 40});
  expect_refused({"none of its 1 tensors is for Z-Image: noise_refiner_x"});
  file_ = MemoryFile();
  file_.add("lora_te_layers_0_self_attn_q_proj.lora_down.weight", {4, 40});
  expect_refused({"text encoder", "lora_te_layers_0"});
}

/// Adds a LoRA of rank 16.
void add_lora(MemoryFile& file, const std::string& module, int64_t out, int64_t in) {
  file.add(module + ".lora_A.weight", {16, in});
  file.add(module + ".lora_B.weight", {out, 16});
}

TEST_F(DamagedAdapter, OfAnotherModelWithItsNames) {
  targets_ = flux2_targets(published("flux2-klein-4b"));
  file_ = MemoryFile();
  add_lora(file_, "transformer.transformer_blocks.0.attn.to_q", 4096, 4096);  // of klein 9B
  add_lora(file_, "transformer.transformer_blocks.7.attn.to_q", 4096, 4096);
  expect_refused({"[4096, 4096]", "[3072, 3072]", "FLUX.2's", "another model"});
  file_ = MemoryFile();
  add_lora(file_, "diffusion_model.double_blocks.0.img_mlp.0", 12288, 3072);  // of FLUX.1
  expect_refused({"[12288, 3072]", "[18432, 3072]"});
  file_ = MemoryFile();
  add_lora(file_, "diffusion_model.double_blocks.18.img_attn.qkv", 9216, 3072);  // of FLUX.1, whose width is the same
  expect_refused({"double_blocks.18", "a layer that FLUX.2 lacks"});
  add_lora(file_, "diffusion_model.double_blocks.0.img_attn.qkv", 9216, 3072);
  expect_refused({"double_blocks.18", "a layer that FLUX.2 lacks"});
  file_ = MemoryFile();
  add_lora(file_, "transformer.layers.0.attention.to_q", 3840, 3840);
  expect_refused({"none of its 2 tensors is for FLUX.2"});
}

TEST_F(DamagedAdapter, EightBitNumbers) {
  std::vector<std::byte> bits(160);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::byte>(i);
  file_.add(kModule + ".lora_A.weight", "F8_E4M3", {4, 40}, bits);
  expect_refused({"lora_A.weight", "nan at [3, 7]"});
  bits[0x7f] = {};
  file_.add(kModule + ".lora_A.weight", "F8_E4M3", {4, 40}, bits);
  const Adapter adapter = read_adapter(file_, targets_);
  const std::vector<float>& values = std::get<LowRank>(adapter.updates.at(0).delta).down->values;
  EXPECT_EQ(values[0], 0.0f);
  EXPECT_EQ(values[1], 0x1p-9f) << "the smallest";
  EXPECT_EQ(values[0x08], 0x1p-6f) << "the smallest normal";
  EXPECT_EQ(values[0x38], 1.0f);
  EXPECT_EQ(values[0x7e], 448.0f) << "the largest";
  EXPECT_EQ(values[0x81], -0x1p-9f);
}

}  // namespace
}  // namespace nostos::test
