// Owns one rank of a process, with all that the rank keeps from one drawing to the next. Places makes the ranks; draw()
// works on one.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/lru_cache.h"
#include "device/context.h"
#include "parallel/communicator.h"
#include "pipeline/model_parts.h"
#include "pipeline/preview.h"
#include "pipeline/rank_memory.h"
#include "pipeline/step_orders.h"
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
/// encoded again; the image has the same bits. Any thread: the roots of lanes that draw at once share them.
class KeptCaptions {
 public:
  /// \param most bytes of all together
  explicit KeptCaptions(size_t most) : kept_(most) {}

  /// \return the embedding, or null.
  std::shared_ptr<const Tensor> find(const CaptionName& name) {
    const std::lock_guard lock(mutex_);
    const auto* known = kept_.find(name);
    return known == nullptr ? nullptr : *known;
  }
  void insert(CaptionName name, Tensor embedding) {
    const size_t bytes = embedding.size_in_bytes();
    const std::lock_guard lock(mutex_);
    kept_.insert(std::move(name), std::make_shared<const Tensor>(std::move(embedding)), bytes);
  }

 private:
  std::mutex mutex_;
  LruCache<CaptionName, std::shared_ptr<const Tensor>> kept_;
};

/// What a rank has of its process, and may share with other ranks of the process.
struct RankProcess {
  Context& ctx;       ///< with all the process's threads: for what one rank does while the others of its lane wait
  ModelParts& parts;  ///< loaded and released by the leader while the others wait
  KeptCaptions* captions = nullptr;  ///< those of the root count; null: none are kept
};

/// A rank. C++ destroys the fields in the opposite of their order: the memory with its recordings before the context.
struct Rank {
  /// \param context null: the rank draws with the context of its process
  Rank(const RankProcess& process, std::unique_ptr<Context> context)
      : process(process),
        own_context(std::move(context)),
        ctx(own_context ? *own_context : process.ctx),
        memory(ctx.device()),
        previews(ctx.device()) {}

  /// \return whether the rank has a context of its own beside its process's. Ranks that share a model have.
  bool shares_parts() const { return own_context != nullptr; }
  /// \return whether this rank loads what it draws with: of ranks that share a model the root does.
  bool leads(const Communicator& world) const { return !shares_parts() || world.rank() == kRoot; }

  RankProcess process;
  std::unique_ptr<Context> own_context;
  Context& ctx;
  RankMemory memory;
  PreviewState previews;
};

}  // namespace nostos
