// Owns the shapes at which attention of heads of 128 is compared with its reference, in bf16 and in 8 bits.
#pragma once

#include <cstdint>

namespace nostos {

struct AttentionCase {
  int64_t heads, kv_heads, queries, keys;
  float largest;  ///< of queries and keys: how far a row's maximum moves from block to block
};

inline constexpr AttentionCase kAttentionCases[] = {
    {1, 1, 1, 1, 1},      {2, 2, 64, 80, 2},   {6, 2, 65, 81, 1},    {3, 3, 193, 161, 2}, {2, 1, 400, 79, 3},
    {30, 30, 33, 500, 3}, {1, 1, 385, 320, 2}, {67, 67, 130, 33, 2},  // on 132 multiprocessors one long tile a head
    {67, 67, 385, 161, 2}};  // one long and two short, more than there are blocks

}  // namespace nostos
