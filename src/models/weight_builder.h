// Owns the step from named checkpoint tensors to the weights that ops take: conversion, stacking, packing, and where
// they are kept.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "device/block_stream.h"
#include "device/buffer.h"
#include "device/context.h"
#include "models/weight_source.h"
#include "ops/conv.h"
#include "ops/linear.h"
#include "ops/stored_weight.h"
#include "tensor/tensor.h"
#include "tensor/weight_format.h"

namespace nostos {

/// How often a block's weights are used.
enum class BlockUse { each_step, once_a_prompt };

/// What a part's weights take, found by a walk: of their dtypes or formats, before any packing. Each is counted as
/// BlockStream::aligned() bytes.
struct WeightSizes {
  size_t fixed = 0;            ///< bytes of all that is in no block, but for the table
  size_t table = 0;            ///< bytes of the table that rows are looked up in
  size_t scratch = 0;          ///< bytes that products with weights that are kept as they are stored take on a GPU
  std::vector<size_t> blocks;  ///< bytes of each block's matrices, in the order of the walk
  std::vector<BlockUse> uses;  ///< of each block

  size_t largest_block() const { return blocks.empty() ? 0 : *std::ranges::max_element(blocks); }
};

/// Which weights a part keeps in host memory: on a GPU alone.
struct WeightPlacement {
  bool table_on_host = false;    ///< the device reads rows where they are
  std::vector<bool> streamed{};  ///< of each block, whether it visits the device when it is used; empty: none does
  size_t slot_bytes = 0;         ///< of the largest streamed block

  bool streams(size_t block) const { return !streamed.empty() && streamed.at(block); }
  friend bool operator==(const WeightPlacement&, const WeightPlacement&) = default;
};

/// \return bytes of the weights that stay on the device.
size_t resident_bytes(const WeightSizes& sizes, const WeightPlacement& placement);

/// What keeps a model's views alive.
struct WeightStorage {
  Buffer reserved;  ///< see WeightBuilder::reserve()
  std::vector<Tensor> tensors;
  /// Vectors and small tensors by the checkpoint's names: norms, biases, pad tokens. f32; null where nothing is
  /// made.
  std::map<std::string, View> vectors;
  std::set<std::string> unneeded;        ///< tensors of the layout that are not loaded
  std::set<std::string> tables;          ///< names of tables
  std::shared_ptr<WeightSource> source;  ///< for what is used where it lies: tables and stored weights on the CPU
  PinnedBuffer table;                    ///< of a GPU's model in host memory
  std::shared_ptr<BlockStream> stream;   ///< of the streamed blocks, if any
  size_t bytes = 0;                      ///< on the device, packed weights and the stream's slots included
  size_t host_bytes = 0;                 ///< of page-locked host memory, for weights that do not stay on a GPU
  WeightSizes sizes;
  size_t unrounded = 0;    ///< weights whose shape rules out products of 8 bits, which were asked for
  size_t requantised = 0;  ///< weights that come in another format of few bits, and were rounded to 8 bits anew
};

/// What becomes of the products of blocks that can round their inputs to 8 bits: those with matrices of
/// ops::takes_int8() without bias that are no WeightBuilder::summand().
struct BlockProducts {
  BlockUse use = BlockUse::each_step;  ///< of the blocks
  /// Whether they round, with weights of 8-bit numbers: those that a file stores so are taken as they are, others are
  /// rotated and rounded.
  bool round = false;
  bool only_stored = false;         ///< whether the others are left as they are
  std::set<std::string> kept = {};  ///< matrices that are left as they are, by their names in the diffusers layout
  std::shared_ptr<const InputWatch> watch = {};  ///< of them all, rounded or not
};

/// Some rows and columns of a checkpoint's matrix, e.g. of projections that it fuses.
struct MatrixPart {
  std::string name;
  Shape whole;                      ///< [rows, columns] of the matrix
  int64_t row = 0, rows = 0;        ///< the part's
  int64_t column = 0, columns = 0;  ///< the part's

  /// \return all of a matrix.
  static MatrixPart all(const std::string& name, int64_t rows, int64_t columns) {
    return {name, {rows, columns}, 0, rows, 0, columns};
  }
};

/// The visitor that a model's weights walk through: it names every tensor with its expected shape and turns it into
/// what ops take.
/// With a ListingSource nothing is made: every output stays empty, but for the shape and the rows of a Linear.
class WeightBuilder {
 public:
  /// \param dtype of the block weights: f32 or bf16.
  WeightBuilder(Context& ctx, std::shared_ptr<WeightSource> source, DType dtype, WeightPlacement placement = {})
      : ctx_(ctx), source_(std::move(source)), dtype_(dtype), placement_(std::move(placement)) {}

  DType dtype() const { return dtype_; }
  /// Products are as `input` numbers make them where nothing else is said.
  void set_products(BlockProducts products) { products_ = std::move(products); }

  /// On a GPU takes the memory of weights that stay there at once. CUDA rounds a large allocation up to whole pages of
  /// 2 MiB, which adds up over a model's several hundred matrices.
  /// \param bytes of matrices and vectors; those beyond have memory of their own
  /// \throws Error out_of_memory
  void reserve(size_t bytes);

  /// Between these two, matrices belong to a block, which is streamed if its placement says so. A block's vectors stay.
  void begin_block(BlockUse use);
  /// \return what its forward pass brackets its use of the matrices with.
  BlockVisit end_block();

  /// A float32 vector or small tensor of `shape`.
  ConstView small(const std::string& name, const Shape& shape);
  /// Weights [out_i, in] named `names`, stacked along the outputs, in the block dtype, without bias.
  Linear stacked(std::initializer_list<std::string> names, std::initializer_list<int64_t> outs, int64_t in);
  /// A weight that is a part of a matrix, in the block dtype, without bias.
  Linear part(const MatrixPart& part);
  /// The same of a weight whose product is added to another's: it is not rounded to 8 bits.
  Linear summand(const MatrixPart& part);
  /// Weights `gate` and `up` [ffn, in] of a SwiGLU layer, in the block dtype.
  GatedLinear gated(const MatrixPart& gate, const MatrixPart& up, const GatedShape& shape);
  /// `name`.weight [out, in] in `dtype`, with `name`.bias [out] if `bias`.
  Linear linear(const std::string& name, int64_t out, int64_t in, bool bias, DType dtype);
  /// `names`[i].weight [out, in] and .bias [out], stacked along the outputs, in the block dtype.
  Linear stacked_with_bias(std::initializer_list<std::string> names, int64_t out, int64_t in);
  /// `name`.weight [out, in, kernel, kernel] and `name`.bias [out] in the block dtype.
  Conv2d conv(const std::string& name, int64_t out, int64_t in, int64_t kernel);
  /// The same of a 3x3 filter for ops::upsampling_conv2d().
  Conv2d upsampling_conv(const std::string& name, int64_t out, int64_t in);
  /// The table that rows are looked up in, as it is stored; on the CPU it is read where it lies.
  StoredMatrix table(const std::string& name, const Shape& shape);
  /// A tensor that the layout has and the engine never needs.
  void unneeded(const std::string& name, const Shape& shape) {
    storage_.unneeded.insert(name);
    source_->unneeded(name, shape);
  }

  /// A tensor that a checkpoint may have beside the layout's.
  void ignored(const std::string& name) { source_->ignored(name); }

  /// Ends the walk. \throws Error model listing everything missing or misshapen. \return what keeps the views alive.
  WeightStorage finish();

 private:
  /// A part of a checkpoint's matrix, and where its rows go in a weight.
  struct PlacedPart {
    MatrixPart from;
    NamedRows to;
  };
  /// What the source gives of a placed part: some of its rows.
  struct SourcePiece {
    StoredMatrix matrix;
    size_t part;  // of the weight
    int64_t row;  // of the part, the piece's first
  };

  /// How a weight is used.
  struct WeightUse {
    bool interleaved = false;  ///< whether its parts are gates and what they gate, stored side by side
    bool may_round = true;     ///< whether ops::rounded_linear() can take it
  };

  /// A weight of `shape` made of `parts`, in `input` numbers or, unless all of it is plain, as it is stored.
  Linear weight(std::span<const PlacedPart> parts, const Shape& shape, DType input, const WeightUse& use);
  /// \return the parts one below the other.
  static std::vector<PlacedPart> stack(std::span<const MatrixPart> parts);
  std::vector<SourcePiece> find(std::span<const PlacedPart> parts);
  /// \param made [out, in], the parts one below the other
  Linear weight_of_plain(const std::vector<SourcePiece>& pieces, View made, bool interleaved);
  Linear weight_as_stored(std::vector<StoredPiece> pieces, const Shape& shape, DType input);
  /// \param made [out, in]: the numbers of all parts, one below the other. \return them, or memory with the gates dealt
  View plain_numbers(const std::vector<SourcePiece>& pieces, View made, bool interleaved);
  /// \return whether BlockProducts is about a weight, but for the weight's shape.
  bool may_round(DType input, const WeightUse& use) const;
  /// \return whether a weight that may be rounded is.
  bool is_rounded(std::span<const PlacedPart> parts, const std::vector<SourcePiece>& pieces, const Shape& shape);
  Linear weight_of_int8(std::span<const PlacedPart> parts, const std::vector<SourcePiece>& pieces, const Shape& shape,
                        bool interleaved);
  /// \return whether the pieces are 8-bit numbers of one rotation that products take.
  static bool are_int8(const std::vector<SourcePiece>& pieces);
  /// Copies such pieces to `image`: all numbers, each row in its place, then the rows' scales.
  void deal_int8(std::span<const PlacedPart> parts, const std::vector<SourcePiece>& pieces, View image, int64_t in);
  /// \return the numbers that the pieces stand for, each row in its place, bf16 or f32 [out, in], in memory that holds
  /// until the next weight.
  View all_numbers(std::span<const PlacedPart> parts, const std::vector<SourcePiece>& pieces, const Shape& shape,
                   bool interleaved);
  static std::vector<StoredPiece> place(std::span<const PlacedPart> parts, const std::vector<SourcePiece>& pieces);
  /// Counts bytes of a matrix.
  void count(size_t bytes);
  /// Memory of a weight until keep().
  struct Made {
    View view;
    Tensor own{};  ///< unless it is reserved memory
  };
  Made make(DType dtype, const Shape& shape);
  View keep(Made made);
  /// \return the next bytes of the reserved memory, or null where it has no room for them.
  std::byte* take_reserved(size_t bytes);
  /// Enqueues a copy of host data, converted to to's dtype.
  void load(ConstView host, View to);
  /// \return device memory for a weight that is packed or sent on at once, valid until the next call: fresh pages for
  /// every weight would double load time.
  std::byte* stage(size_t bytes);
  /// Copies `name` to `to`, converted to its dtype. \return false if the source gives no data.
  bool fetch(const std::string& name, const Shape& shape, View to);
  /// conv(), packed by `pack`.
  Conv2d packed_conv(const std::string& name, const Shape& shape, Conv2d (*pack)(Context&, ConstView, ConstView));

  Context& ctx_;
  std::shared_ptr<WeightSource> source_;
  DType dtype_;
  WeightPlacement placement_;
  bool in_block_ = false;
  BlockProducts products_;
  std::optional<size_t> streamed_block_;  // under way, by its number in the stream
  WeightStorage storage_;
  size_t reserved_used_ = 0;
  Buffer staging_, raw_, rounded_;
};

}  // namespace nostos
