// Tests what keys of adapter files are taken for.
#include "adapters/adapter_key.h"

#include <gtest/gtest.h>

namespace nostos::test {
namespace {

struct KeyCase {
  std::string_view key, module;
  AdapterRole role;
};

TEST(AdapterKey, EveryStyle) {
  using R = AdapterRole;
  for (const KeyCase& c : {
           KeyCase{"diffusion_model.layers.0.attention.to_q.lora_A.weight", "diffusion_model_layers_0_attention_to_q",
                   R::down},
           KeyCase{"layers.0.attention.to_q.lora_B.default.weight", "layers_0_attention_to_q", R::up},
           KeyCase{"default.x.default.lora_A", "default_x", R::down},
           KeyCase{"x.lora_B.bias", "x", R::up_bias},
           KeyCase{"lora_unet_layers_19_attention_to_out_0.lora_down.weight", "lora_unet_layers_19_attention_to_out_0",
                   R::down},
           KeyCase{"lora_unet_layers_19_attention_to_out_0.alpha", "lora_unet_layers_19_attention_to_out_0", R::alpha},
           KeyCase{"context.refiner.0.attention.to.q.lora.down.weight", "context_refiner_0_attention_to_q", R::down},
           KeyCase{"x.lora_linear_layer.up.weight", "x", R::up},
           KeyCase{"blk.0.attn_q.weight.lora_a", "blk_0_attn_q", R::down},
           KeyCase{"x.lokr_w1", "x", R::left},
           KeyCase{"x.lokr_w1_a", "x", R::left_up},
           KeyCase{"x.lokr_w2_b", "x", R::right_down},
           KeyCase{"x.hada_w2_a", "x", R::second_up},
           KeyCase{"x.dora_scale", "x", R::magnitude},
           KeyCase{"x.lora_magnitude_vector.default.weight", "x", R::magnitude},
           KeyCase{"x.lora_magnitude_vector", "x", R::magnitude},
           KeyCase{"x.diff", "x", R::difference},
           KeyCase{"x.diff_b", "x", R::bias_difference},
           KeyCase{"x.w_norm", "x", R::difference},
           KeyCase{"x.lokr_t2", "x", R::unknown_kind},
           KeyCase{"x.oft_blocks", "x", R::unknown_kind},
       }) {
    const std::optional<AdapterKey> key = parse_adapter_key(c.key);
    ASSERT_TRUE(key.has_value()) << c.key;
    EXPECT_EQ(key->module, c.module);
    EXPECT_EQ(key->role, c.role) << c.key;
    EXPECT_EQ(key->kind.empty(), c.role != R::unknown_kind);
  }
}

TEST(AdapterKey, WhatIsNone) {
  for (const std::string_view key : {"", ".", "alpha", ".alpha", "lora_A.weight", ".default", "x.weight",
                                     "x.lora_C.weight", "x.lora_A.weights", "xlora_A.weight", "x.alpha.", "iteration"})
    EXPECT_FALSE(parse_adapter_key(key).has_value()) << key;
}

}  // namespace
}  // namespace nostos::test
