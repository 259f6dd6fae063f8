// Owns folders with configs of small models, as wide as formats of stored weights want them: for random weights.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "pipeline/drawing_device.h"

namespace nostos {

/// \return a copy of the folder `tiny` with other widths: multiples of 256, as the blocks of every format want them.
inline std::filesystem::path widened(const char* name, const std::filesystem::path& tiny,
                                     const nlohmann::json& transformer) {
  const std::filesystem::path made =
      std::filesystem::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name() / name;
  std::filesystem::remove_all(made);
  std::filesystem::create_directories(made.parent_path());
  std::filesystem::copy(tiny, made, std::filesystem::copy_options::recursive);
  const auto change = [&](const char* file, const nlohmann::json& fields) {
    nlohmann::json config = nlohmann::json::parse(std::ifstream(made / file));
    config.update(fields);
    std::ofstream(made / file) << config;
  };
  change("transformer/config.json", transformer);
  change("text_encoder/config.json", {{"hidden_size", 256},
                                      {"intermediate_size", 512},
                                      {"num_attention_heads", 2},
                                      {"num_key_value_heads", 1},
                                      {"head_dim", 128}});
  return made;
}

inline std::filesystem::path wide_flux2() {
  return widened("flux2", repository() / "tests/data/klein_tiny/base",
                 {{"num_attention_heads", 2},
                  {"attention_head_dim", 128},
                  {"axes_dims_rope", {32, 32, 32, 32}},
                  {"num_layers", 1},
                  {"num_single_layers", 2},
                  {"joint_attention_dim", 768}});
}

inline std::filesystem::path wide_zimage() {
  // The feed-forward layers are 8 / 3 as wide: 2048.
  return widened("z_image", repository() / "tests/data/tiny/diffusers_test",
                 {{"dim", 768},
                  {"n_heads", 6},
                  {"n_kv_heads", 6},
                  {"axes_dims", {32, 48, 48}},
                  {"n_layers", 1},
                  {"n_refiner_layers", 1},
                  {"cap_feat_dim", 256}});
}

}  // namespace nostos
