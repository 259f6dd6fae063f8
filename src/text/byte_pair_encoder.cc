// Implements byte-pair encoding with a linked list of symbols and a heap of candidate merges.
#include "text/byte_pair_encoder.h"

#include <queue>
#include <tuple>

#include "base/error.h"

namespace nostos {
namespace {

/// GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other bytes, in order, for U+0100 and up.
/// \return the character of each byte as UTF-8.
std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  int next_substitute = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int code_point = printable ? byte : next_substitute++;
    std::string& character = alphabet[static_cast<std::size_t>(byte)];
    if (code_point < 0x80) {
      character = static_cast<char>(code_point);
    } else {
      character = {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
    }
  }
  return alphabet;
}

uint64_t pair_key(int32_t left_id, int32_t right_id) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left_id)) << 32 | static_cast<uint32_t>(right_id);
}

constexpr int32_t kNone = -1;

/// One token of the word so far; `id` is kNone once it has been merged into its left neighbour.
struct Symbol {
  int32_t id;
  int32_t previous;
  int32_t next;
};

/// A merge that was possible when it was found; it is stale if the symbols have changed since.
struct Candidate {
  int32_t rank;
  int32_t position;
  int32_t left_id;
  int32_t right_id;
  int32_t merged_id;
};

/// Orders a heap so that the lowest rank, then the leftmost position, is on top.
struct ComesLater {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return std::tie(a.rank, a.position) > std::tie(b.rank, b.position);
  }
};

}  // namespace

BytePairEncoder::BytePairEncoder(const Vocabulary& vocabulary, const MergeList& merges, std::string_view file) {
  const auto alphabet = byte_alphabet();
  for (std::size_t byte = 0; byte < alphabet.size(); ++byte) {
    const auto found = vocabulary.find(alphabet[byte]);
    require(
        found != vocabulary.end(), ErrorKind::model,
        "{}: the vocabulary has no token '{}' for byte 0x{:02X}; a byte-level vocabulary has one for each of the 256 "
        "bytes",
        file, alphabet[byte], byte);
    byte_ids_[byte] = found->second;
  }
  merges_.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string& left = merges[rank].first;
    const std::string& right = merges[rank].second;
    const auto id_of = [&](const std::string& token) {
      const auto found = vocabulary.find(token);
      require(found != vocabulary.end(), ErrorKind::model,
              "{}: merge {} ('{:.60}' + '{:.60}') names the token '{:.60}', which is not in the vocabulary", file, rank,
              left, right, token);
      return found->second;
    };
    const Merge merge{static_cast<int32_t>(rank), id_of(left + right)};
    const bool is_new = merges_.emplace(pair_key(id_of(left), id_of(right)), merge).second;
    require(is_new, ErrorKind::model, "{}: merge {} ('{:.60}' + '{:.60}') is listed twice", file, rank, left, right);
  }
}

const BytePairEncoder::Merge* BytePairEncoder::find_merge(int32_t left_id, int32_t right_id) const {
  const auto found = merges_.find(pair_key(left_id, right_id));
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairEncoder::encode(std::string_view word, std::vector<int32_t>& ids) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (std::size_t i = 0; i < word.size(); ++i) {
    const auto position = static_cast<int32_t>(i);
    symbols.push_back(
        {byte_ids_[static_cast<unsigned char>(word[i])], position - 1, i + 1 < word.size() ? position + 1 : kNone});
  }
  const auto symbol = [&](int32_t position) -> Symbol& { return symbols[static_cast<std::size_t>(position)]; };

  std::priority_queue<Candidate, std::vector<Candidate>, ComesLater> candidates;
  const auto consider = [&](int32_t position) {
    if (position == kNone || symbol(position).next == kNone) return;
    const int32_t left_id = symbol(position).id;
    const int32_t right_id = symbol(symbol(position).next).id;
    if (const Merge* merge = find_merge(left_id, right_id)) {
      candidates.push({merge->rank, position, left_id, right_id, merge->merged_id});
    }
  };
  for (std::size_t i = 0; i < word.size(); ++i) consider(static_cast<int32_t>(i));

  while (!candidates.empty()) {
    const Candidate candidate = candidates.top();
    candidates.pop();
    Symbol& left = symbol(candidate.position);
    if (left.id != candidate.left_id || left.next == kNone || symbol(left.next).id != candidate.right_id) continue;
    Symbol& right = symbol(left.next);
    left.id = candidate.merged_id;
    left.next = right.next;
    right.id = kNone;
    if (left.next != kNone) symbol(left.next).previous = candidate.position;
    consider(left.previous);
    consider(candidate.position);
  }
  for (const Symbol& s : symbols) {
    if (s.id != kNone) ids.push_back(s.id);
  }
}

}  // namespace nostos
