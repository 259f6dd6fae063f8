// Owns what an adapter file becomes: changes of a model's weights in three plain forms, and the report of what was
// found. Read a LoRA, LoKr, LoHa, DoRA or difference file with read_adapter(), whoever wrote it; merge.h applies it to
// a weight.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "adapters/targets.h"
#include "io/tensor_file.h"

namespace nostos {

/// A row-major float32 matrix in host memory.
struct Matrix {
  int64_t rows = 0, columns = 0;
  std::vector<float> values;

  const float* row(int64_t i) const { return values.data() + i * columns; }
  float* row(int64_t i) { return values.data() + i * columns; }
};
/// What was cut from one matrix of a file shares its other factor: the three projections of a fused qkv have one
/// `down`.
using SharedMatrix = std::shared_ptr<const Matrix>;

/// up [rows, rank] times down [rank, columns].
struct LowRank {
  SharedMatrix up, down;
};

/// Rows [first_row, first_row + rows) of the Kronecker product of `left` [a, b] and `right` [c, d], whose element
/// (i c + k, j d + l) is left(i, j) right(k, l). b d is the target's columns; first_row is less than c.
struct Kronecker {
  SharedMatrix left, right;
  int64_t first_row = 0;
};

/// The change itself, [rows, columns].
struct Dense {
  SharedMatrix difference;
};

/// The lengths that rows or columns of a weight have after its change (DoRA).
struct Magnitude {
  enum class Axis { each_row, each_column };
  Axis axis = Axis::each_row;
  std::vector<float> values;  ///< of the update's rows, or of the target's columns; of any sign
};

/// A change of rows [first_row, first_row + rows) of one weight:
/// W' = W + strength * scale * delta, and with a magnitude each row (or column) of W' is brought to that length.
/// A vector counts as a matrix of one column.
struct WeightUpdate {
  std::string part;    ///< of the model, as AdapterPart names it
  std::string target;  ///< in the diffusers layout, e.g. "layers.0.attention.to_q.weight"
  int64_t first_row = 0, rows = 0, columns = 0;
  double scale = 1;  ///< alpha / rank
  std::variant<LowRank, Kronecker, Dense> delta;
  std::optional<Magnitude> magnitude;  ///< over columns only where the update has all rows of the target
};

/// What an adapter file held, for people.
struct AdapterReport {
  std::string file;                       ///< its path
  std::string model;                      ///< whose weights it changes
  std::map<std::string, int> kinds;       ///< modules of the file by kind, e.g. {"LoRA", 210}
  std::set<std::string> layouts;          ///< whose names the file uses, e.g. "diffusers"
  std::set<std::string> prefixes;         ///< before those names, with '_' for '.', e.g. "lora_unet_"
  std::set<int64_t> ranks;                ///< of low-rank factors
  std::set<double> alphas;                ///< that the file says, as far as they count
  int64_t modules = 0;                    ///< of the file that change a weight
  int64_t targets = 0;                    ///< weights that are changed
  std::vector<std::string> unmatched;     ///< keys of no module of the model, sorted
  std::vector<std::string> duplicates;    ///< modules left out, or in part: another module changes the same rows
  std::vector<std::string> text_encoder;  ///< keys for a text encoder, where the targets have none

  /// \return a few sentences: kind, names, counts, and what was not used.
  std::string summary() const;
};

struct Adapter {
  std::vector<WeightUpdate> updates;  ///< sorted by part, target and first row; some may change the same weight
  AdapterReport report;
};

/// Reads every change that `file` has for `targets`. Keys that name no module of the model are reported; those that can
/// only be a mistake are errors.
/// \throws Error model naming the file, and the tensor where there is one: no key matches; a shape is another model's
/// (with both shapes); a layer is one that the model lacks; half of a pair is missing, ranks disagree, a tensor is no
/// matrix, of no type of numbers or not finite; two modules say the same; the file holds a kind that nostos does not
/// know.
Adapter read_adapter(const TensorFile& file, const AdapterTargets& targets);

}  // namespace nostos
