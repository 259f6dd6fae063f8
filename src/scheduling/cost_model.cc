// Implements the expected times. The proportions before any measurement are those of Z-Image-Turbo on one and two H200s
// (bf16, peer memory): measured from prompt to pixels at 256 to 2048 pixels square, and met within 5 %.
#include "scheduling/cost_model.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace nostos::scheduling {
namespace {

constexpr double kStepMs = 3.0, kRowMs = 0.0179, kRowsSquaredMs = 7.6e-7;
// What exchanges between places add to a step, whatever their number: two places have been measured.
constexpr double kExchangeMs = 0.2, kExchangedRowMs = 8e-4;
constexpr double kTextMs = 5.0, kDecodedRowMs = 4.6e-3, kDecodeMs = 0.5;

constexpr double kClip = 0.25;           // relative error beyond which a measurement counts as that
constexpr int64_t kTrusted = 3;          // measurements before any is clipped
constexpr double kNoise = 0.05;          // relative, of a measurement
constexpr double kFirstDeviation = 0.3;  // of each factor from 1
constexpr double kDrift = 0.01;          // of each factor between two measurements
constexpr double kLeastFactor = 0.02;

FittedTime::Terms step_terms(const Work& work, int degree) {
  const auto rows = static_cast<double>(work.rows), passes = static_cast<double>(work.passes);
  const double share = 1.0 / degree;
  const bool exchanges = degree > 1;
  return {kStepMs + (exchanges ? kExchangeMs : 0), passes * rows * (kRowMs * share + (exchanges ? kExchangedRowMs : 0)),
          passes * rows * rows * kRowsSquaredMs * share};
}

FittedTime::Terms text_terms(const Work& work) { return {0, kTextMs * static_cast<double>(work.passes), 0}; }

FittedTime::Terms decode_terms(const Work& work, int degree) {
  const auto images = static_cast<double>(work.images);
  return {kDecodeMs * images, kDecodedRowMs * images * static_cast<double>(work.rows) / degree, 0};
}

double sum(const FittedTime::Terms& terms) { return terms[0] + terms[1] + terms[2]; }

}  // namespace

double FittedTime::predict(const Terms& terms) const {
  double ms = 0;
  for (size_t i = 0; i < terms.size(); ++i) ms += scale_ * factors_[i] * terms[i];
  return ms;
}

void FittedTime::observe(const Terms& terms, double ms) {
  if (!std::isfinite(ms) || ms <= 0 || sum(terms) <= 0) return;
  if (count_++ == 0) {
    scale_ = ms / sum(terms);
    for (size_t i = 0; i < terms.size(); ++i) covariance_[i][i] = kFirstDeviation * kFirstDeviation;
    return;
  }
  const double expected = predict(terms);
  Terms share{}, spread{};
  for (size_t i = 0; i < terms.size(); ++i) share[i] = scale_ * terms[i] / expected;
  double error = ms / expected - 1;
  if (count_ > kTrusted) error = std::clamp(error, -kClip, kClip);
  double variance = kNoise * kNoise;
  for (size_t i = 0; i < terms.size(); ++i) {
    covariance_[i][i] = std::min(covariance_[i][i] + kDrift * kDrift, kFirstDeviation * kFirstDeviation);
    for (size_t j = 0; j < terms.size(); ++j) spread[i] += covariance_[i][j] * share[j];
  }
  for (size_t i = 0; i < terms.size(); ++i) variance += share[i] * spread[i];
  for (size_t i = 0; i < terms.size(); ++i) {
    factors_[i] = std::max(factors_[i] + spread[i] / variance * error, kLeastFactor);
    for (size_t j = 0; j < terms.size(); ++j) covariance_[i][j] -= spread[i] * spread[j] / variance;
  }
}

double CostModel::speed(const Work& work, int degree) const {
  const FittedTime* nearest = nullptr;
  double distance = 0;
  int measured = degree;
  for (const auto& [other, fit] : steps_) {
    const double apart = std::abs(std::log(static_cast<double>(other) / degree));
    if (nearest != nullptr && apart >= distance) continue;
    nearest = &fit;
    distance = apart;
    measured = other;
  }
  if (nearest == nullptr) return 1;
  const FittedTime::Terms terms = step_terms(work, measured);
  return nearest->predict(terms) / sum(terms);
}

double CostModel::text_ms(const Work& work) const {
  const FittedTime::Terms terms = text_terms(work);
  return text_.is_measured() ? text_.predict(terms) : speed(work, 1) * sum(terms);
}

double CostModel::step_ms(const Work& work, int degree) const {
  return speed(work, degree) * sum(step_terms(work, degree));
}

double CostModel::vae_ms(const Work& work, int degree) const {
  const FittedTime::Terms terms = decode_terms(work, degree);
  return decode_.is_measured() ? decode_.predict(terms) : speed(work, degree) * sum(terms);
}

double CostModel::total_ms(const Work& work, int degree) const {
  return text_ms(work) + static_cast<double>(work.steps) * step_ms(work, degree) + vae_ms(work, degree);
}

void CostModel::observe_text(const Work& work, double ms) { text_.observe(text_terms(work), ms); }

void CostModel::observe_step(const Work& work, int degree, double ms) {
  steps_[degree].observe(step_terms(work, degree), ms);
}

void CostModel::observe_decode(const Work& work, int degree, double ms) {
  decode_.observe(decode_terms(work, degree), ms);
}

int CostModel::fastest_degree(const Work& work, int most) const {
  int best = 1;
  double least = total_ms(work, 1);
  for (int degree = 2; degree <= most; ++degree) {
    const double ms = total_ms(work, degree);
    if (ms < least) best = degree, least = ms;
  }
  return best;
}

}  // namespace nostos::scheduling
