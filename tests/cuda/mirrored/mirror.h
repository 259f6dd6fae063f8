// Owns an op's operands on the GPU while tests of tests/ops run it there: copies of those on the host.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/gpu.h"
#include "ops/attention.h"
#include "tensor/weight_format.h"

namespace nostos {

/// Stands for a value of any type where only whether there is room for one matters.
struct Anything {
  template <class T>
  operator T() const;
};

/// \return how many members an aggregate has.
template <class T, class... Found>
constexpr size_t member_count() {
  if constexpr (requires { T{Found{}..., Anything{}}; })
    return member_count<T, Found..., Anything>();
  else
    return sizeof...(Found);
}

/// Calls body(member) for each member of an aggregate.
template <class T, class Body>
void each_member(T& value, const Body& body) {
  constexpr size_t kCount = member_count<T>();
  static_assert(kCount >= 1 && kCount <= 9, "an operand has up to 9 members");
  const auto all = [&](auto&... members) { (body(members), ...); };
  if constexpr (kCount == 1) {
    auto& [a] = value;
    all(a);
  } else if constexpr (kCount == 2) {
    auto& [a, b] = value;
    all(a, b);
  } else if constexpr (kCount == 3) {
    auto& [a, b, c] = value;
    all(a, b, c);
  } else if constexpr (kCount == 4) {
    auto& [a, b, c, d] = value;
    all(a, b, c, d);
  } else if constexpr (kCount == 5) {
    auto& [a, b, c, d, e] = value;
    all(a, b, c, d, e);
  } else if constexpr (kCount == 6) {
    auto& [a, b, c, d, e, f] = value;
    all(a, b, c, d, e, f);
  } else if constexpr (kCount == 7) {
    auto& [a, b, c, d, e, f, g] = value;
    all(a, b, c, d, e, f, g);
  } else if constexpr (kCount == 8) {
    auto& [a, b, c, d, e, f, g, h] = value;
    all(a, b, c, d, e, f, g, h);
  } else {
    auto& [a, b, c, d, e, f, g, h, i] = value;
    all(a, b, c, d, e, f, g, h, i);
  }
}

/// One op's operands. An operand that is read and written is one piece of memory on the GPU, as it is on the host.
class Mirror {
 public:
  ConstView place(const ConstView& host) { return {piece_of(host).device(), host.dtype(), host.shape()}; }
  View place(const View& host) {
    Piece& piece = piece_of(host);
    piece.written_to = host.bytes();
    return {piece.device(), host.dtype(), host.shape()};
  }
  template <class T>
  std::span<const T> place(std::span<const T> host) {
    const auto placed = std::make_shared<std::vector<T>>();
    for (const T& each : host) placed->push_back(place(each));
    kept_.push_back(placed);
    return *placed;
  }
  template <class T>
  std::shared_ptr<T> place(const std::shared_ptr<T>& packed) {
    return packed;  // made by the GPU's own op
  }
  template <class T>
  std::vector<T> place(const std::vector<T>& names) {
    return names;  // no memory that an op reads
  }
  Shape place(const Shape& shape) { return shape; }
  ops::Scoring place(const ops::Scoring& scoring) { return scoring; }
  /// With gaps between rows, if there are any; weights that an op keeps must lie on the GPU by themselves.
  StoredMatrix place(const StoredMatrix& host) {
    StoredMatrix placed = host;
    if (host.rows == 0) return placed;
    const size_t bytes = static_cast<size_t>(host.rows - 1) * host.row_stride + host.row_bytes();
    placed.data = piece_of({host.data, DType::u8, {static_cast<int64_t>(bytes)}}).device();
    if (host.scales == nullptr) return placed;
    const int64_t factors = host.format.scales == WeightScales::one ? 1 : host.rows;
    const auto* scales = reinterpret_cast<const std::byte*>(host.scales);
    placed.scales = reinterpret_cast<const float*>(piece_of({scales, DType::f32, {factors}}).device());
    return placed;
  }
  /// Of a structure the members, of a number itself.
  template <class T>
  T place(const T& value) {
    T placed = value;
    if constexpr (std::is_pointer_v<T>)
      fail(ErrorKind::internal, "a plain pointer's memory cannot be mirrored");
    else if constexpr (!std::is_arithmetic_v<T> && !std::is_enum_v<T>)
      each_member(placed, [&](auto& member) { member = place(std::as_const(member)); });
    return placed;
  }

  /// \return what the op has given, with the host's operands in the place of the GPU's.
  template <class T>
  T home(T given) {
    each_member(given, [&]<class Member>(Member& member) {
      if constexpr (std::is_same_v<Member, ConstView>) {
        for (auto& [host, piece] : pieces_)
          if (piece.memory && member.bytes() == piece.device()) member = {host.first, member.dtype(), member.shape()};
      }
    });
    return given;
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
  std::vector<std::shared_ptr<const void>> kept_;
};

}  // namespace nostos
