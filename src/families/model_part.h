// Owns a part of a model: a network whose weights are loaded and released by themselves, such as a text encoder. A
// family makes its parts; ModelParts of the pipeline loads and releases them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "adapters/targets.h"
#include "base/error.h"
#include "device/context.h"
#include "families/adapted_weights.h"
#include "models/weight_builder.h"

namespace nostos {

/// What the pipeline does with a part, whatever network the part is.
class ModelPart {
 public:
  /// \param name as messages write it, e.g. "text encoder"
  /// \param adapted_as what adapters call it, e.g. "text_encoder"; "": they do not change it
  /// \param sizes of the part's weights, from a walk that loads nothing
  ModelPart(std::string_view name, std::string_view adapted_as, WeightSizes sizes)
      : name_(name), adapted_as_(adapted_as), sizes_(std::move(sizes)) {}
  virtual ~ModelPart() = default;
  ModelPart(const ModelPart&) = delete;
  ModelPart& operator=(const ModelPart&) = delete;

  std::string_view name() const { return name_; }
  const WeightSizes& sizes() const { return sizes_; }
  /// \return what adapters call the part.
  std::string_view adapted_as() const { return adapted_as_; }
  bool takes_adapters() const { return !adapted_as_.empty(); }
  /// \return whether blocks of the part may be kept in host memory. A part without blocks is always on the device.
  bool can_stream() const { return !sizes_.blocks.empty(); }

  /// Loads the weights, unless they are loaded already.
  /// \throws Error model, out_of_memory
  virtual void load(Context& ctx, const WeightPlacement& placement) = 0;
  virtual void release() = 0;
  virtual bool is_loaded() const = 0;
  /// \return what lists what adapters may change: the part's tensors. Any thread may call it, and it needs nothing of
  /// the part.
  virtual std::function<AdapterPart()> lister() const = 0;
  /// \return bytes of a GPU that the changes of `adapters` will take beside the weights. \throws Error model naming
  /// what cannot be changed
  virtual size_t plan_adapters(Context& ctx, std::span<const ScaledAdapter> adapters) = 0;
  /// Has the weights changed by `adapters` in place of those before, now if they are loaded, and whenever they are
  /// loaded again.
  /// \throws Error model, out_of_memory
  virtual void adapt(Context& ctx, std::span<const ScaledAdapter> adapters) = 0;
  /// \return bytes that the adapters' changes take now, beside storage().
  virtual size_t adapter_bytes() const = 0;
  /// \return what the loaded weights take; null while they are not loaded.
  virtual const WeightStorage* storage() const = 0;

 private:
  std::string_view name_, adapted_as_;
  WeightSizes sizes_;
};

/// What a walk over a part's weights names, without any data.
template <class Weights>
struct ListedWeights {
  std::map<std::string, Shape> shapes;  ///< of every tensor, by its name in the diffusers layout
  Weights weights;                      ///< shapes and rows of matrices alone
};

/// A part that is a `Network`: a class with weights() that have a `storage`.
template <class Network>
class ModelPartOf final : public ModelPart {
 public:
  using Listed = ListedWeights<std::remove_cvref_t<decltype(std::declval<const Network&>().weights())>>;

  /// Where the part's weights come from.
  struct Source {
    std::function<std::unique_ptr<Network>(Context& ctx, const WeightPlacement& placement)> make;
    std::function<Listed(Context& ctx)> list;
    std::function<AdapterPart()> lister;  ///< as ModelPart::lister()
    /// Gives what reads the checkpoint's tensors, for one change of adapters. \param shapes of them, which outlive it
    std::function<ReadWeight(const std::map<std::string, Shape>& shapes)> open_reader;
  };

  ModelPartOf(std::string_view name, std::string_view adapted_as, WeightSizes sizes, Source source)
      : ModelPart(name, adapted_as, std::move(sizes)), source_(std::move(source)) {}

  /// \return the network, which must be loaded.
  const Network& get() const {
    check(network_ != nullptr, "a part is loaded before it is used");
    return *network_;
  }

  void load(Context& ctx, const WeightPlacement& placement) override {
    if (network_) return;
    network_ = source_.make(ctx, placement);
    keeps_updates_ = ctx.device().kind == DeviceKind::cpu;
    if (adapters_.empty()) return;
    try {
      if (applied_.updates.empty())
        adapt_weights(ctx, adaptable(ctx), adapters_, applied_);
      else
        adapt_again(ctx, adaptable(ctx), adapters_, applied_);
    } catch (...) {
      network_.reset();  // without its adapters it would draw other pictures than are asked for
      applied_ = {};
      throw;
    }
  }
  std::function<AdapterPart()> lister() const override { return source_.lister; }
  size_t plan_adapters(Context& ctx, std::span<const ScaledAdapter> adapters) override {
    if (adapters.empty() || !takes_adapters()) return 0;
    const Listed& all = listed(ctx);
    const WeightTable table = weight_table(all.weights);
    const WeightChanges changes = find_changes({adapted_as(), table, all.weights.storage}, adapters);
    size_t bytes = 0;
    for (const auto& [weight, own] : changes.matrices) bytes += update_bytes(*weight, own);
    return bytes;
  }
  void adapt(Context& ctx, std::span<const ScaledAdapter> adapters) override {
    if (!takes_adapters()) return;
    adapters_.assign(adapters.begin(), adapters.end());
    if (network_)
      adapt_weights(ctx, adaptable(ctx), adapters_, applied_);
    else
      applied_ = {};
  }
  size_t adapter_bytes() const override { return applied_.bytes; }
  void release() override {
    network_.reset();
    applied_.vectors.clear();
    // On the CPU they take what the adapters' files take once more, and making them anew whenever the part's turn
    // comes would cost DoRA a pass over all weights in double precision.
    if (!keeps_updates_) applied_ = {};
  }
  bool is_loaded() const override { return network_ != nullptr; }
  const WeightStorage* storage() const override { return network_ ? &network_->weights().storage : nullptr; }

 private:
  const Listed& listed(Context& ctx) {
    if (!listed_) listed_ = std::make_unique<Listed>(source_.list(ctx));
    return *listed_;
  }
  AdaptableWeights adaptable(Context& ctx) {
    return {adapted_as(), weight_table(network_->weights()), network_->storage(),
            source_.open_reader(listed(ctx).shapes)};
  }

  Source source_;
  std::unique_ptr<Listed> listed_;  // from the first adapters on
  std::vector<ScaledAdapter> adapters_;
  AppliedAdapters applied_;
  bool keeps_updates_ = false;
  std::unique_ptr<Network> network_;
};

}  // namespace nostos
