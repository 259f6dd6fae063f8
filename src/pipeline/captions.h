// Owns the text stage of a drawing: prompts become embeddings ("captions"), on rank 0, which gives them to all ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "families/family.h"
#include "pipeline/batch.h"
#include "pipeline/drawing.h"

namespace nostos {

/// What an embedding is made of.
struct Prompt {
  std::string text;
  int64_t max_tokens = 0;  ///< beyond which it is cut

  friend bool operator==(const Prompt&, const Prompt&) = default;
};

/// The prompts of a drawing, each once.
struct PromptSet {
  std::vector<PromptTokens> tokens{};  ///< on rank 0
  std::vector<int64_t> lengths{};      ///< tokens of each, on every rank
  std::vector<int64_t> rows{};         ///< of the embedding of each
  std::vector<const Tensor*> kept{};   ///< of each on rank 0: null, or the embedding that is kept of it
};

/// Memory of the text stage.
struct CaptionMemory {
  /// Prompts that are encoded together.
  struct TextBatch {
    Batch prompts;
    std::unique_ptr<PromptEncoding> encoding;
    CaptionKey key;  ///< of what is recorded of it
  };

  View embeddings;  ///< f32 [rows of all, width], one after the other
  std::vector<TextBatch>
      batches;  ///< on rank 0, of prompts whose embedding is not kept; their scratch is the same memory
};

/// Embeddings on their way to those that are kept, by their prompts.
using CaptionCopies = std::vector<std::pair<size_t, Tensor>>;

/// \return the prompts by their tokens. Rank 0 tells those who follow which were cut. All ranks call it.
PromptSet tokenize(Drawing& drawing, std::span<const Prompt> prompts);

/// Takes the memory of the text stage on this rank.
CaptionMemory take_caption_memory(Arena& arena, const Drawing& drawing, const PromptSet& prompts);

/// Fills memory.embeddings, on every rank. \return on rank 0 copies under way, of embeddings that are to be kept
CaptionCopies make_captions(Drawing& drawing, const PromptSet& prompts, const CaptionMemory& memory);

/// Keeps what make_captions() has copied, once the drawing is done and the copies are there.
void keep_captions(Drawing& drawing, const PromptSet& prompts, CaptionCopies copies);

/// \return the embedding of each prompt, whole.
std::vector<ConstView> embeddings_of(const CaptionMemory& memory, const PromptSet& prompts);

}  // namespace nostos
