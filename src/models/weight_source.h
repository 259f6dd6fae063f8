// Owns where a model's weights come from: a checkpoint, random numbers, or nowhere (when only names and shapes are
// wanted).
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "device/context.h"
#include "io/weight_store.h"
#include "tensor/tensor.h"

namespace nostos {

/// Gives tensors by the names that the checkpoint layout uses.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// \return the tensor, f32, bf16 or f16, valid until release(name) or as long as the source; with null data if this
  /// source gives none (it has then noted why, if anything is amiss).
  virtual ConstView tensor(const std::string& name, const Shape& shape) = 0;
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

/// A checkpoint part on disk.
class StoreSource : public WeightSource {
 public:
  enum class Mode {
    load,        ///< gives data
    check_only,  ///< compares names, shapes and dtypes, and gives no data
  };

  /// \param prefix put before every name where the checkpoint nests the part, e.g. "model."
  StoreSource(WeightStore store, std::string prefix, Mode mode)
      : store_(std::move(store)), prefix_(std::move(prefix)), mode_(mode) {}

  ConstView tensor(const std::string& name, const Shape& shape) override;
  void release(const std::string& name) override { store_.release(prefix_ + name); }
  void unneeded(const std::string& name, const Shape& shape) override { tensor(name, shape); }
  void ignored(const std::string& name) override { ignored_.insert({name, prefix_ + name}); }
  /// When checking, also logs a warning that names the checkpoint's tensors nobody asked for.
  void finish() override;

 private:
  WeightStore store_;
  std::string prefix_;
  Mode mode_;
  std::vector<std::string> problems_;
  std::set<std::string> ignored_;
};

/// Random weights, normal-like with the scale 1 / sqrt(fan in), ones for norms; the same for the same names.
class SyntheticSource : public WeightSource {
 public:
  explicit SyntheticSource(Context& ctx) : ctx_(ctx) {}

  ConstView tensor(const std::string& name, const Shape& shape) override;
  void release(const std::string& name) override { made_.erase(name); }
  void unneeded(const std::string&, const Shape&) override {}
  void ignored(const std::string&) override {}

 private:
  Context& ctx_;
  std::map<std::string, Tensor> made_;
};

/// Records names and shapes, as if all were bf16, like the random ones; gives no data.
class ListingSource : public WeightSource {
 public:
  ConstView tensor(const std::string& name, const Shape& shape) override;
  void release(const std::string&) override {}
  void unneeded(const std::string& name, const Shape& shape) override { tensor(name, shape); }
  void ignored(const std::string&) override {}
  const std::map<std::string, Shape>& shapes() const { return shapes_; }

 private:
  std::map<std::string, Shape> shapes_;
};

}  // namespace nostos
