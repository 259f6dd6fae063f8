// Owns a Z-Image model whose networks are loaded when a test first asks for them.
#pragma once

#include "families/zimage/model.h"

namespace nostos {

class ZImageModel : public zimage::Model {
 public:
  ZImageModel(Context& ctx, const std::filesystem::path& folder, bool synthetic, DType dtype)
      : Model(ctx, {folder, dtype, synthetic}) {}

  const qwen3::Encoder& encoder(Context& ctx) {
    parts()[0]->load(ctx, {});
    return Model::encoder();
  }
  const zimage::Transformer& transformer(Context& ctx) {
    parts()[1]->load(ctx, {});
    return Model::transformer();
  }
  const autoencoder_kl::Autoencoder& autoencoder(Context& ctx) {
    parts()[2]->load(ctx, {});
    return Model::autoencoder();
  }
};

}  // namespace nostos
