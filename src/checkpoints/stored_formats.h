// Owns the words and the counts of how weights are stored: what `nostos inspect` says of a file's or a part's formats.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/tensor_file.h"
#include "io/weight_store.h"
#include "tensor/weight_format.h"

namespace nostos {

/// \return for people, e.g. "Q4_K" or "I8, a scale for each row, rotated by 256".
std::string format_name(const WeightFormat& format);

/// Tensors that are stored alike.
struct FormatGroup {
  std::string format;  ///< format_name(), or the file's word for what nostos does not read
  int64_t tensors = 0;
  int64_t numbers = 0;
  size_t bytes = 0;  ///< with those of the scales

  double bits_per_number() const;
};

/// Adds a tensor to the group of its format. \param groups from the most bytes to the fewest once sort_groups() ran
void add_to_group(std::vector<FormatGroup>& groups, const FormatGroup& tensor);
void sort_groups(std::vector<FormatGroup>& groups);

/// \return the tensors of a part's folder by their formats; scales are tensors of their own.
std::vector<FormatGroup> group_formats(const WeightStore& store);

}  // namespace nostos
