// Implements following drawings.
#include "quantisation/trajectories.h"

#include <cmath>

#include "base/error.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

std::vector<float> values_of(Context& ctx, ConstView velocity) {
  Tensor host(Device{}, DType::f32, velocity.shape());
  download(ctx, velocity, host);
  ctx.synchronize("velocity");
  return {host.data<float>(), host.data<float>() + velocity.shape().elements()};
}

}  // namespace

VelocityError compare_velocities(std::span<const float> made, std::span<const float> wanted) {
  check(made.size() == wanted.size(), "velocities of one drawing have one size");
  double product = 0, of_made = 0, of_wanted = 0, of_difference = 0;
  for (size_t i = 0; i < made.size(); ++i) {
    const double a = made[i], b = wanted[i];
    product += a * b;
    of_made += a * a;
    of_wanted += b * b;
    of_difference += (a - b) * (a - b);
  }
  if (!std::isfinite(of_difference)) return {0, of_difference};
  if (of_difference == 0) return {};
  const double norms = std::sqrt(of_made * of_wanted);
  return {norms == 0 ? 0 : product / norms, std::sqrt(of_difference / of_wanted)};
}

Trajectory follow(Engine& engine, const GenerationRequest& request, const Progress& progress,
                  const std::function<void()>& on_step) {
  Trajectory made;
  Progress watching = progress;
  watching.on_velocity = [&](Context& ctx, const PictureStep&, View velocity) {
    made.velocities.push_back(values_of(ctx, velocity));
    if (on_step) on_step();
  };
  made.image = engine.generate(request, watching).pictures.at(0).image;
  return made;
}

std::vector<VelocityError> compare_along(Engine& engine, const GenerationRequest& request, const Trajectory& along,
                                         const Progress& progress) {
  std::vector<VelocityError> made;
  Progress watching = progress;
  watching.on_velocity = [&](Context& ctx, const PictureStep&, View velocity) {
    const std::vector<float>& wanted = along.velocities.at(made.size());
    made.push_back(compare_velocities(values_of(ctx, velocity), wanted));
    upload(ctx, ConstView(reinterpret_cast<const std::byte*>(wanted.data()), DType::f32, velocity.shape()), velocity);
  };
  engine.generate(request, watching);
  return made;
}

}  // namespace nostos
