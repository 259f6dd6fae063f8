// Stands in for the Hopper kernels in a build for other GPUs.
#include "base/error.h"
#include "ops/cuda/hopper.h"

namespace nostos::cuda {
namespace {

[[noreturn]] void fail_missing() {
  fail(ErrorKind::internal, "this build has no kernels for Hopper GPUs (NOSTOS_CUDA_ARCHITECTURES lacks 90a)");
}

}  // namespace

bool has_hopper_kernels(Device) { return false; }

void hopper_attention(Context&, const ops::QueriesKeysValues&, float, const HeadScales&, View) { fail_missing(); }

void hopper_packed_attention(Context&, ConstView, ops::HeadCounts, float, const HeadScales&,
                             std::span<const ops::RowTarget>) {
  fail_missing();
}

void hopper_wide_attention(Context&, ConstView, ConstView, ConstView, float, View) { fail_missing(); }

void hopper_gated_linear(Context&, std::span<const HopperFactors>, View) { fail_missing(); }

void hopper_linear_sum(Context&, std::span<const HopperFactors>, View) { fail_missing(); }

void hopper_int8_linear(Context&, const Int8Factors&, bool, View) { fail_missing(); }

void hopper_convolution(Context&, ConstView, const HopperFilter&, const Padding&, bool, View) { fail_missing(); }

}  // namespace nostos::cuda
