// Owns a FLUX.2-klein model whose parts are loaded.
#pragma once

#include "families/flux2_klein/model.h"

namespace nostos::test {

class KleinModel : public flux2_klein::Model {
 public:
  KleinModel(Context& ctx, const std::filesystem::path& folder) : Model(ctx, {folder}) {
    for (ModelPart* part : parts()) part->load(ctx, {});
  }
};

}  // namespace nostos::test
