// Owns a part of a model: a network whose weights are loaded and released by themselves, such as a text encoder. A
// family makes its parts; ModelParts of the pipeline loads and releases them.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/context.h"
#include "families/adapted_weights.h"
#include "models/weight_builder.h"

namespace nostos {

/// What the pipeline does with a part, whatever network the part is.
class ModelPart {
 public:
  /// \param name as messages write it, e.g. "text encoder"
  /// \param sizes of the part's weights, from a walk that loads nothing
  /// \param targets what adapters may change: the part's tensors
  ModelPart(std::string_view name, WeightSizes sizes, AdapterPart targets)
      : name_(name), sizes_(std::move(sizes)), targets_(std::move(targets)) {}
  virtual ~ModelPart() = default;
  ModelPart(const ModelPart&) = delete;
  ModelPart& operator=(const ModelPart&) = delete;

  std::string_view name() const { return name_; }
  const WeightSizes& sizes() const { return sizes_; }
  const AdapterPart& targets() const { return targets_; }
  /// \return whether blocks of the part may be kept in host memory. A part without blocks is always on the device.
  bool can_stream() const { return !sizes_.blocks.empty(); }

  /// Loads the weights, unless they are loaded already.
  /// \throws Error model, out_of_memory
  virtual void load(Context& ctx, const WeightPlacement& placement) = 0;
  virtual void release() = 0;
  virtual bool is_loaded() const = 0;
  /// Has the weights changed by `adapters` in place of those before, now if they are loaded, and whenever they are
  /// loaded again.
  /// \throws Error model, out_of_memory
  virtual void adapt(Context& ctx, std::span<const ScaledAdapter> adapters) = 0;
  /// \return what the loaded weights take; null while they are not loaded.
  virtual const WeightStorage* storage() const = 0;

 private:
  std::string_view name_;
  WeightSizes sizes_;
  AdapterPart targets_;
};

/// A part that is a `Network`: a class with weights() that have a `storage`.
template <class Network>
class ModelPartOf final : public ModelPart {
 public:
  using Make = std::function<std::unique_ptr<Network>(Context& ctx, const WeightPlacement& placement)>;

  /// \param read_weight gives the checkpoint's matrices
  ModelPartOf(std::string_view name, WeightSizes sizes, AdapterPart targets, Make make, ReadWeight read_weight)
      : ModelPart(name, std::move(sizes), std::move(targets)),
        make_(std::move(make)),
        read_weight_(std::move(read_weight)) {}

  /// \return the network, which must be loaded.
  const Network& get() const {
    check(network_ != nullptr, "a part is loaded before it is used");
    return *network_;
  }

  void load(Context& ctx, const WeightPlacement& placement) override {
    if (network_) return;
    network_ = make_(ctx, placement);
    changed_.clear();
    if (adapters_.empty()) return;
    try {
      adapt_loaded(ctx);
    } catch (...) {
      network_.reset();  // without its adapters it would draw other pictures than are asked for
      throw;
    }
  }
  void adapt(Context& ctx, std::span<const ScaledAdapter> adapters) override {
    adapters_.assign(adapters.begin(), adapters.end());
    if (network_) adapt_loaded(ctx);
  }
  void release() override { network_.reset(); }
  bool is_loaded() const override { return network_ != nullptr; }
  const WeightStorage* storage() const override { return network_ ? &network_->weights().storage : nullptr; }

 private:
  void adapt_loaded(Context& ctx) {
    adapt_weights(ctx, {targets().name, weight_table(network_->weights()), network_->storage(), read_weight_},
                  adapters_, changed_);
  }

  Make make_;
  ReadWeight read_weight_;
  std::vector<ScaledAdapter> adapters_;
  std::set<std::string> changed_;  // vectors of the loaded network
  std::unique_ptr<Network> network_;
};

}  // namespace nostos
