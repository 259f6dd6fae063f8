// Owns where a model's weights come from: a checkpoint, random numbers, or nowhere (when only names and shapes are
// wanted).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "device/context.h"
#include "io/weight_store.h"
#include "models/checkpoint_layout.h"
#include "tensor/tensor.h"
#include "tensor/weight_format.h"

namespace nostos {

/// Gives tensors by the names that the diffusers layout uses.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// \return the tensor, f32, bf16 or f16, valid until release(name) or as long as the source; with null data if this
  /// source gives none (it has then noted why, if anything is amiss).
  virtual ConstView tensor(const std::string& name, const Shape& shape) = 0;
  /// \return the matrix as it is stored, in pieces from top to bottom, valid as long as the source or, if all are
  /// plain, until release(name); without data where only sizes are known; nothing if this source has noted what is
  /// amiss.
  virtual std::vector<StoredMatrix> matrix(const std::string& name, const Shape& shape);
  /// The tensor has been copied: its memory may be reused.
  virtual void release(const std::string& name) = 0;
  /// Notes that the layout has this tensor but the engine never needs its values.
  virtual void unneeded(const std::string& name, const Shape& shape) = 0;
  /// Notes that a checkpoint may have this tensor, of whatever dtype and shape, or a prefix less: nobody is warned of
  /// it.
  virtual void ignored(const std::string& name) = 0;
  /// Called once every tensor has been asked for. \throws Error model listing what was missing or misshapen.
  virtual void finish() {}
};

/// How a checkpoint names its tensors.
struct CheckpointNames {
  const CheckpointLayout* layout = nullptr;  ///< null: as the diffusers layout does
  std::string prefix{};                      ///< before every name where the checkpoint nests the part, e.g. "model."
  bool is_shared = false;                    ///< whether it holds other parts, too, whose tensors nobody is warned of

  /// \param name of a tensor in the diffusers layout
  /// \return what it is made of in the checkpoint, from top to bottom.
  std::vector<TensorRows> find(const std::string& name) const;
};

/// A checkpoint part on disk. Several sources may read one store, each for a walk of its own.
class StoreSource : public WeightSource {
 public:
  enum class Mode {
    load,        ///< gives data
    check_only,  ///< compares names, shapes and dtypes, and gives no data
  };

  StoreSource(std::shared_ptr<const WeightStore> store, CheckpointNames names, Mode mode);
  /// Drops the pages of what was read: the store may stay open for long.
  ~StoreSource() override;

  ConstView tensor(const std::string& name, const Shape& shape) override;
  std::vector<StoredMatrix> matrix(const std::string& name, const Shape& shape) override;
  void release(const std::string& name) override;
  void unneeded(const std::string& name, const Shape& shape) override;
  void ignored(const std::string& name) override;
  /// When checking, also logs a warning that names the checkpoint's tensors nobody asked for.
  void finish() override;
  /// \return what is amiss with the tensors that were asked for, each a sentence.
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  /// Rows of a tensor of the store.
  struct Stored {
    std::string name;  // with the prefix
    const TensorInfo* info;
    WeightFormat format;
    int64_t row, rows;  // of it
    int64_t all_rows;   // that it has
    bool has_rows;      // whether rows end where blocks end; else it is one long row
    bool is_whole() const { return rows == all_rows; }
  };

  /// \return where the tensor is, from top to bottom; nothing, with a problem noted, if it is not there as wanted.
  std::vector<Stored> locate(const std::string& name, const Shape& shape);
  /// \param wanted the name that `rows` are a part of, for messages
  std::optional<Stored> locate(const TensorRows& rows, const std::string& wanted);
  /// \return a plain tensor's rows, aligned for their type. \param name that release() gives a copy back by
  ConstView plain_rows(const std::string& name, const Stored& stored);
  StoredMatrix read(const std::string& name, const Stored& stored);
  const float* scales_of(const Stored& stored);
  ConstView dequantise(const std::string& name, const std::vector<Stored>& stored, const Shape& shape);

  Context host_{Device{}};
  std::shared_ptr<const WeightStore> store_;
  CheckpointNames names_;
  Mode mode_;
  std::vector<std::string> problems_;
  std::set<std::string> known_;                       // tensors that are used or ignored: nobody is warned of them
  std::map<std::string, Tensor> dequantised_;         // until they are released
  std::multimap<std::string, Tensor> copies_;         // likewise, of what the file has unaligned
  std::map<std::string, std::vector<float>> scales_;  // by the names of their weights
};

}  // namespace nostos
