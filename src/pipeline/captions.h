// Owns the text stage of a drawing: rank 0 turns prompts into prompt embeddings ("captions") and gives the embeddings
// to all ranks. draw() calls these functions in the order in which they stand here.
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

/// What a prompt embedding is made of.
struct Prompt {
  std::string text;
  int64_t max_tokens = 0;  ///< beyond which it is cut

  friend bool operator==(const Prompt&, const Prompt&) = default;
};

/// The prompts of a drawing, each once.
struct PromptSet {
  std::vector<PromptTokens> tokens{};   ///< on rank 0
  std::vector<PromptLength> lengths{};  ///< of each, on every rank
  std::vector<int64_t> rows{};          ///< of the embedding of each
  /// Of each on rank 0: null, or the embedding that is kept of it. Empty where all were encoded before.
  std::vector<std::shared_ptr<const Tensor>> kept{};

  std::string adapters{};  ///< as CaptionName has them

  /// \return what the embedding of prompt `i` is kept under, on rank 0.
  CaptionName key(size_t i) const { return {tokens[i].ids, rows[i], adapters}; }
};

/// Memory of the text stage.
struct CaptionMemory {
  /// Some prompts that are encoded together.
  struct TextBatch {
    Batch prompts;
    std::unique_ptr<PromptEncoding> encoding;
    CaptionKey key;  ///< of what is recorded of it
  };

  View embeddings;                 ///< f32 [rows of all, width], one after the other
  std::vector<TextBatch> batches;  ///< on rank 0, of prompts whose embedding is not kept; all use the same scratch
};

/// Embeddings on their way into KeptCaptions, each with the place of its prompt.
using CaptionCopies = std::vector<std::pair<size_t, Tensor>>;

/// \return the tokens of the prompts. Rank 0 tells each request's Progress which prompts were cut. All ranks call it.
PromptSet tokenize(Drawing& drawing, std::span<const Prompt> prompts);

/// Takes the memory of the text stage on this rank.
CaptionMemory take_caption_memory(Arena& arena, const Drawing& drawing, const PromptSet& prompts);

/// Fills memory.embeddings, on every rank.
/// \return on rank 0 copies under way, of embeddings that are to be kept
CaptionCopies make_captions(Drawing& drawing, const PromptSet& prompts, const CaptionMemory& memory);

/// Keeps what make_captions() has copied. Call it when the drawing is done, because the copies have arrived then.
void keep_captions(Drawing& drawing, const PromptSet& prompts, CaptionCopies copies);

/// \return the embedding of each prompt, whole.
std::vector<ConstView> embeddings_of(const CaptionMemory& memory, const PromptSet& prompts);

}  // namespace nostos
