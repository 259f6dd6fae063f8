// Owns weights that no file has: random ones for measuring, as bf16 numbers or as a file of any format would store
// them, and lists of names and shapes.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/weight_source.h"

namespace nostos {

/// What random weights are like.
enum class SyntheticKind {
  plain,
  /// Transformers have the outliers that make trained weights hard to round: channels of the inputs of feed-forward
  /// layers' second products that are a hundred times the rest, some tokens whose input there is one channel of up to
  /// 344,000, and channels of attention that are sixteen times the rest. Source of the sizes: measurements of
  /// fine-tuned Z-Image-Turbo that their author published in August 2026.
  hostile,
};

/// Random weights, normal-like with the scale 1 / sqrt(fan in), ones for norms; the same for the same names.
class SyntheticSource : public WeightSource {
 public:
  /// \param format of the matrices whose rows end where its blocks end; nothing: bf16 numbers, as all else
  explicit SyntheticSource(Context& ctx, const std::optional<WeightFormat>& format = {},
                           SyntheticKind kind = SyntheticKind::plain)
      : ctx_(ctx), format_(format), kind_(kind) {}

  ConstView tensor(const std::string& name, const Shape& shape) override;
  std::vector<StoredMatrix> matrix(const std::string& name, const Shape& shape) override;
  void release(const std::string& name) override;
  void unneeded(const std::string&, const Shape&) override {}
  void ignored(const std::string&) override {}

 private:
  struct Blocks {
    std::vector<std::byte> bytes;
    std::vector<float> scales;
  };

  Context& ctx_;
  std::optional<WeightFormat> format_;
  SyntheticKind kind_;
  std::map<std::string, Tensor> made_;
  std::map<std::string, Blocks> blocks_;
};

/// Records names and shapes, as if all were like the random ones; gives no data.
class ListingSource : public WeightSource {
 public:
  explicit ListingSource(const std::optional<WeightFormat>& format = {}) : format_(format) {}

  ConstView tensor(const std::string& name, const Shape& shape) override;
  std::vector<StoredMatrix> matrix(const std::string& name, const Shape& shape) override;
  void release(const std::string&) override {}
  void unneeded(const std::string& name, const Shape& shape) override { tensor(name, shape); }
  void ignored(const std::string&) override {}
  const std::map<std::string, Shape>& shapes() const { return shapes_; }

 private:
  std::optional<WeightFormat> format_;
  std::map<std::string, Shape> shapes_;
};

/// \return the format of that name for random weights: a StoredType's name in any case, with a scale for the types that
/// want one, or "int8_convrot"; nothing for "". \throws Error invalid_input naming those that there are
std::optional<WeightFormat> parse_synthetic_format(const std::string& name);

/// \return the format that `formats` has for a part: "q4_k" is of all parts, "transformer=q6_k,text_encoder=q4_k" has
/// one for each; nothing for a part that it leaves out. \throws Error invalid_input as parse_synthetic_format()
std::optional<WeightFormat> synthetic_format_of(std::string_view part, const std::string& formats);

}  // namespace nostos
