// Owns a part of a model: a network whose weights are loaded and released by themselves, such as a text encoder. A
// family makes its parts; ModelParts of the pipeline loads and releases them.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "device/context.h"
#include "models/weight_builder.h"

namespace nostos {

/// What the pipeline does with a part, whatever network the part is.
class ModelPart {
 public:
  /// \param name as messages write it, e.g. "text encoder"
  /// \param sizes of the part's weights, from a walk that loads nothing
  ModelPart(std::string_view name, WeightSizes sizes) : name_(name), sizes_(std::move(sizes)) {}
  virtual ~ModelPart() = default;
  ModelPart(const ModelPart&) = delete;
  ModelPart& operator=(const ModelPart&) = delete;

  std::string_view name() const { return name_; }
  const WeightSizes& sizes() const { return sizes_; }
  /// \return whether blocks of the part may be kept in host memory. A part without blocks is always on the device.
  bool can_stream() const { return !sizes_.blocks.empty(); }

  /// Loads the weights, unless they are loaded already.
  /// \throws Error model, out_of_memory
  virtual void load(Context& ctx, const WeightPlacement& placement) = 0;
  virtual void release() = 0;
  virtual bool is_loaded() const = 0;
  /// \return what the loaded weights take; null while they are not loaded.
  virtual const WeightStorage* storage() const = 0;

 private:
  std::string_view name_;
  WeightSizes sizes_;
};

/// A part that is a `Network`: a class with weights() that have a `storage`.
template <class Network>
class ModelPartOf final : public ModelPart {
 public:
  using Make = std::function<std::unique_ptr<Network>(Context& ctx, const WeightPlacement& placement)>;

  ModelPartOf(std::string_view name, WeightSizes sizes, Make make)
      : ModelPart(name, std::move(sizes)), make_(std::move(make)) {}

  /// \return the network, which must be loaded.
  const Network& get() const {
    check(network_ != nullptr, "a part is loaded before it is used");
    return *network_;
  }

  void load(Context& ctx, const WeightPlacement& placement) override {
    if (!network_) network_ = make_(ctx, placement);
  }
  void release() override { network_.reset(); }
  bool is_loaded() const override { return network_ != nullptr; }
  const WeightStorage* storage() const override { return network_ ? &network_->weights().storage : nullptr; }

 private:
  Make make_;
  std::unique_ptr<Network> network_;
};

}  // namespace nostos
