// Makes the op tests of tests/ops run on the GPU: this ops::backend_of() takes the place of the library's, and gives a
// backend whose every op copies its host operands to the GPU, runs CUDA's op there and copies back what it has written,
// guards included.
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "cuda/gpu.h"
#include "ops/backend.h"

namespace nostos {
namespace {

using ops::Backend;

/// One op's operands on the GPU. An operand that is read and written is one piece of memory there, as it is on the
/// host.
class Mirror {
 public:
  Context& context() { return gpu(); }

  ConstView place(ConstView host) { return {piece_of(host).device(), host.dtype(), host.shape()}; }
  View place(View host) {
    Piece& piece = piece_of(host);
    piece.written_to = host.bytes();
    return {piece.device(), host.dtype(), host.shape()};
  }
  std::span<const ops::HeadGroup> place(std::span<const ops::HeadGroup> host) {
    for (const auto& [q, k, v, packed] : host) groups_.push_back({place(q), place(k), place(v), place(packed)});
    return groups_;
  }
  const Linear& place(const Linear& w) {
    linear_ = w;
    linear_.bias = place(w.bias);
    return linear_;
  }
  const Conv2d& place(const Conv2d& w) {
    conv_ = w;
    conv_.bias = place(w.bias);
    return conv_;
  }
  ops::NextNorm place(const ops::NextNorm& next) { return {place(next.weight), place(next.scale), place(next.out)}; }
  template <class T>
  T place(T value) {
    return value;
  }

  /// Copies back what the op has written.
  void finish() {
    for (auto& [place, piece] : pieces_) {
      if (piece.memory) download(gpu(), piece.memory, piece.host);
    }
    gpu().synchronize("test");
    for (auto& [place, piece] : pieces_) {
      if (!piece.memory) continue;
      for (size_t i = 0; i < kGuardBytes; ++i) {
        const bool intact = piece.host.data<uint8_t>()[i] == kGuard &&
                            piece.host.data<uint8_t>()[kGuardBytes + piece.bytes + i] == kGuard;
        if (!intact) {
          ADD_FAILURE() << "the GPU's op wrote outside an operand of " << piece.bytes << " bytes";
          break;
        }
      }
      if (piece.written_to != nullptr)
        std::memcpy(piece.written_to, piece.host.data<uint8_t>() + kGuardBytes, piece.bytes);
    }
  }

 private:
  static constexpr size_t kGuardBytes = 256;  // keeps the operand's alignment
  static constexpr uint8_t kGuard = 0xA5;

  struct Piece {
    Tensor memory, host;  ///< guard, operand, guard
    size_t bytes = 0;
    std::byte* written_to = nullptr;
    std::byte* device() { return memory ? memory.view().bytes() + kGuardBytes : nullptr; }
  };

  Piece& piece_of(ConstView host) {
    Piece& piece = pieces_[{host.bytes(), host.size_in_bytes()}];
    if (piece.memory || !host) return piece;
    piece.bytes = host.size_in_bytes();
    const Shape shape{static_cast<int64_t>(piece.bytes + 2 * kGuardBytes)};
    piece.host = Tensor(Device{}, DType::u8, shape);
    std::memset(piece.host.data<uint8_t>(), kGuard, piece.host.size_in_bytes());
    if (piece.bytes > 0) std::memcpy(piece.host.data<uint8_t>() + kGuardBytes, host.bytes(), piece.bytes);
    piece.memory = on_gpu(piece.host);
    return piece;
  }

  std::map<std::pair<const std::byte*, size_t>, Piece> pieces_;
  std::vector<ops::HeadGroup> groups_;
  Linear linear_;
  Conv2d conv_;
};

/// The mirrored form of one entry of the table.
template <auto kEntry>
struct Mirrored;

template <class... Args, void (*Backend::*kEntry)(Context&, Args...)>
struct Mirrored<kEntry> {
  static void run(Context&, Args... args) {
    Mirror mirror;
    (ops::cuda_backend().*kEntry)(mirror.context(), mirror.place(args)...);
    mirror.finish();
  }
};

bool has_bf16_products(Context&) { return ops::cuda_backend().has_bf16_products(gpu()); }

Linear pack_linear(Context&, ConstView weight) {
  Mirror mirror;
  Linear packed = ops::cuda_backend().pack_linear(gpu(), mirror.place(weight));
  mirror.finish();
  return packed;
}

bool fuses_gated_linear(Device, DType dtype, const GatedShape& shape) {
  return ops::cuda_backend().fuses_gated_linear(gpu().device(), dtype, shape);
}

Conv2d pack_conv2d(Context&, ConstView filter, ConstView bias) {
  Mirror mirror;
  Conv2d packed = ops::cuda_backend().pack_conv2d(gpu(), mirror.place(filter), mirror.place(bias));
  mirror.finish();
  packed.bias = bias;
  return packed;
}

}  // namespace

const Backend& ops::backend_of(Device) {
  static const Backend mirrored{
      .has_bf16_products = nostos::has_bf16_products,
      .pack_linear = nostos::pack_linear,
      .borrow_linear = nullptr,
      .linear = Mirrored<&Backend::linear>::run,
      .fuses_gated_linear = nostos::fuses_gated_linear,
      .interleave_gates = Mirrored<&Backend::interleave_gates>::run,
      .gated_linear = Mirrored<&Backend::gated_linear>::run,
      .pack_conv2d = nostos::pack_conv2d,
      .conv2d = Mirrored<&Backend::conv2d>::run,
      .plan_conv2d = nullptr,
      .finish_plans = nullptr,
      .pack_phases = nullptr,
      .interleave_phases = nullptr,
      .fuses_phases = nullptr,
      .phases_conv2d = nullptr,
      .rms_norm = Mirrored<&Backend::rms_norm>::run,
      .layer_norm_scaled = Mirrored<&Backend::layer_norm_scaled>::run,
      .add_gated_rms_norm = Mirrored<&Backend::add_gated_rms_norm>::run,
      .group_norm_row_sums = Mirrored<&Backend::group_norm_row_sums>::run,
      .group_norm_apply = Mirrored<&Backend::group_norm_apply>::run,
      .split_heads_rope = Mirrored<&Backend::split_heads_rope>::run,
      .attention = Mirrored<&Backend::attention>::run,
      .packs_attention = nullptr,
      .packed_attention = nullptr,
      .attention_part = Mirrored<&Backend::attention_part>::run,
      .merge_attention = Mirrored<&Backend::merge_attention>::run,
      .silu_mul = Mirrored<&Backend::silu_mul>::run,
      .silu = Mirrored<&Backend::silu>::run,
      .finish_modulation = Mirrored<&Backend::finish_modulation>::run,
      .add_scalar = Mirrored<&Backend::add_scalar>::run,
      .convert = Mirrored<&Backend::convert>::run,
      .fill_rows = Mirrored<&Backend::fill_rows>::run,
      .clear = Mirrored<&Backend::clear>::run,
      .embed = Mirrored<&Backend::embed>::run,
      .copy_rows = Mirrored<&Backend::copy_rows>::run,
      .guide = Mirrored<&Backend::guide>::run,
      .cap_norm = Mirrored<&Backend::cap_norm>::run,
      .euler_step = Mirrored<&Backend::euler_step>::run,
      .philox_normal = Mirrored<&Backend::philox_normal>::run,
      .patchify = Mirrored<&Backend::patchify>::run,
      .unpatchify = Mirrored<&Backend::unpatchify>::run,
      .latents_to_image = Mirrored<&Backend::latents_to_image>::run,
      .upsample_nearest_2x = Mirrored<&Backend::upsample_nearest_2x>::run,
      .to_pixels = Mirrored<&Backend::to_pixels>::run,
  };
  return mirrored;
}

}  // namespace nostos
