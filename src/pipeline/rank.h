// Owns one rank of a process, with all that the rank keeps from one drawing to the next. Engine makes the ranks; draw()
// works on one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/lru_cache.h"
#include "device/context.h"
#include "parallel/nccl_communicator.h"
#include "pipeline/model_parts.h"
#include "pipeline/preview.h"
#include "pipeline/rank_memory.h"
#include "tensor/tensor.h"

namespace nostos {

/// What a prompt embedding is kept under. It does not depend on size or seed.
struct CaptionName {
  std::vector<int32_t> ids;  ///< tokens of the prompt
  int64_t rows = 0;
  std::string adapters{};  ///< on which it depends: ModelParts::embedding_adapters()

  friend auto operator<=>(const CaptionName&, const CaptionName&) = default;
};

/// Prompt embeddings that outlive their drawing, f32 [rows, width] in host memory. A prompt that comes again is not
/// encoded again; the image has the same bits. The costs of the cache are bytes.
using KeptCaptions = LruCache<CaptionName, Tensor>;

/// What a rank has of its process, and may share with other ranks of the process.
struct RankProcess {
  Context& ctx;                      ///< with all the process's threads: for what one rank does while the others wait
  ModelParts& parts;                 ///< loaded and released by the leader while the others wait
  KeptCaptions* captions = nullptr;  ///< rank 0's; null: none are kept
};

/// A rank. C++ destroys the fields in the opposite of their order: the memory with its recordings before the link that
/// recordings use, and the link before the context.
struct Rank {
  /// \param context null: the rank draws with the context of its process
  /// \param leads whether this rank is the one of its process that loads the model
  Rank(const RankProcess& process, std::unique_ptr<Context> context, bool leads)
      : process(process),
        leads(leads),
        own_context(std::move(context)),
        ctx(own_context ? *own_context : process.ctx),
        memory(ctx.device()),
        previews(ctx.device()) {}

  /// \return whether the rank has a context of its own beside its process's. Ranks that share a model have.
  bool shares_parts() const { return own_context != nullptr; }

  RankProcess process;
  bool leads;
  std::unique_ptr<Context> own_context;
  Context& ctx;
  std::unique_ptr<NcclCommunicator> gpus;  ///< of ranks with a GPU each; null: not connected, or the hosts' serves
  RankMemory memory;
  PreviewState previews;
};

}  // namespace nostos
