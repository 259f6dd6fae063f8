// Owns what is expected of time: a drawing's stages and steps by size and by the number of places that share it. The
// policy and `generate --num-gpus auto` ask it.
#pragma once

#include <array>
#include <cstdint>
#include <map>

namespace nostos::scheduling {

/// What a drawing computes. Several jobs that are drawn together are one work with the passes and images of all.
struct Work {
  int64_t rows = 0;    ///< of a forward pass: the image's tokens and what stands beside them
  int64_t passes = 1;  ///< of a step: one or two an image
  int64_t images = 1;
  int64_t steps = 1;

  friend bool operator==(const Work&, const Work&) = default;
};

/// A sum of three terms, each times a factor. The factors follow what is measured.
class FittedTime {
 public:
  using Terms = std::array<double, 3>;  ///< of a time, as expected before anything was measured

  bool is_measured() const { return count_ > 0; }
  double predict(const Terms& terms) const;
  /// Takes a measurement into account: recursive least squares of relative errors. One that is far off counts as if it
  /// were a quarter off, so that a single hiccup does little, and a lasting change wins within some dozens.
  void observe(const Terms& terms, double ms);

 private:
  double scale_ = 1;  ///< of the first measurement, in which the factors are counted
  std::array<double, 3> factors_{1, 1, 1};
  std::array<std::array<double, 3>, 3> covariance_{};
  int64_t count_ = 0;
};

/// The expected times in milliseconds. A step of p passes of r rows takes a + b p r + c p r^2, with a, b and c for each
/// degree: the number of places that share the drawing. What was not measured has the proportions of two H200s and the
/// speed of the nearest degree that was. One thread at a time.
class CostModel {
 public:
  double text_ms(const Work& work) const;
  double step_ms(const Work& work, int degree) const;
  double vae_ms(const Work& work, int degree) const;
  /// \return all stages of a drawing.
  double total_ms(const Work& work, int degree) const;

  /// Leave out what prepares kernels for a size: it is no measure of the next time.
  void observe_text(const Work& work, double ms);
  void observe_step(const Work& work, int degree, double ms);
  void observe_decode(const Work& work, int degree, double ms);

  /// \return the degree from 1 to `most` that a drawing has the least expected time with, the lowest of equal ones.
  int fastest_degree(const Work& work, int most) const;

 private:
  double speed(const Work& work, int degree) const;

  std::map<int, FittedTime> steps_;  ///< by degree
  FittedTime text_, decode_;
};

}  // namespace nostos::scheduling
