// Owns byte-level byte-pair encoding: the merge table and its application to one word. Tokenizer calls it with the
// words of the pre-tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace nostos {

/// Token text, in GPT-2's byte alphabet, to token id.
using Vocabulary = std::unordered_map<std::string, int32_t>;

/// Pairs of token texts, in the order in which pairs are merged.
using MergeList = std::vector<std::pair<std::string, std::string>>;

/// Merges the bytes of a word into tokens. Of all pairs that could be merged, the pair of the lowest rank goes first,
/// and of several such pairs the leftmost. Immutable.
/// Source: Sennrich et al. (arXiv 1508.07909); the byte alphabet is GPT-2's.
class BytePairEncoder {
 public:
  /// \param file names the origin of `merges` in errors.
  /// \throws Error model if a byte's token or a merge's part or result is not in `vocabulary`, or a pair comes twice.
  BytePairEncoder(const Vocabulary& vocabulary, const MergeList& merges, std::string_view file);

  /// Appends the token ids of `word` to `ids`. `word` may hold any bytes, or none. Takes O(n log n) for n bytes.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t merged_id;
  };
  const Merge* find_merge(int32_t left_id, int32_t right_id) const;

  std::array<int32_t, 256> byte_ids_{};
  std::unordered_map<uint64_t, Merge> merges_;  // key: left id in the high half, right id in the low half
};

}  // namespace nostos
