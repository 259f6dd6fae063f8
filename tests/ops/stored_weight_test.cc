// Tests that stored weights become the numbers of their formats' references, bit for bit, wherever their rows stand.
#include "ops/stored_weight.h"

#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "base/error.h"
#include "ops/stored_cases.h"

namespace nostos {
namespace {

/// Expects the case's numbers from `pieces`, and the same rounded once to bf16.
void expect_numbers(std::span<const StoredPiece> pieces, ConstView numbers, const std::string& what) {
  Context ctx({}, 2);
  Guarded out(DType::f32, numbers.shape()), half(DType::bf16, numbers.shape());
  ops::dequantise(ctx, pieces, out);
  ops::dequantise(ctx, pieces, half);
  expect_same_bits(out, numbers, what);
  expect_same_bits(half, rounded_to_bf16(numbers), what + " to bf16");
  out.expect_guards_untouched();
  half.expect_guards_untouched();
}

TEST(StoredWeight, NumbersAreTheReferences) {
  for (const StoredCase& c : stored_cases()) expect_numbers(std::array{in_one_piece(c.matrix)}, c.numbers, c.name);
}

TEST(StoredWeight, NumberOfThreadsDoesNotMatter) {
  constexpr int64_t kRows = 300;
  const StoredCase c = stored_case("q4_k");
  std::vector<StoredPiece> pieces;
  for (int64_t i = 0; i < kRows; ++i) pieces.push_back(in_one_piece(c.matrix.row_range(i % 3, 1), i));
  for (const int threads : {1, 2, 3}) {
    Context ctx({}, threads);
    Guarded out(DType::f32, {kRows, c.matrix.columns});
    ops::dequantise(ctx, pieces, out);
    for (int64_t i = 0; i < kRows; ++i)
      expect_same_bits(out.view().rows(i, 1), c.numbers.rows(i % 3, 1), fmt::format("{} threads", threads));
    out.expect_guards_untouched();
  }
}

// Of ConvRot the reference adds rounded products in an order of its own. Measured: 0.22 of the bound.
TEST(StoredWeight, RotatedNumbersAreKitchensUpToRounding) {
  WorstError worst;
  Context ctx({}, 2);
  for (const int64_t rotation : {16, 64, 256}) {
    const std::string name = fmt::format("i8.rotated{}", rotation);
    const StoredCase c = stored_case(name, WeightScales::each_row, rotation);
    Guarded out(DType::f32, c.numbers.shape());
    ops::dequantise(ctx, std::array{in_one_piece(c.matrix)}, out);
    const auto* bytes = reinterpret_cast<const int8_t*>(c.matrix.data);
    Values bound;
    for (int64_t i = 0; i < c.matrix.rows; ++i) {
      for (int64_t block = 0; block < c.matrix.columns; block += rotation) {
        const int8_t* begin = bytes + i * c.matrix.columns + block;
        const double sum =
            std::accumulate(begin, begin + rotation, 0.0, [](double sum, int8_t each) { return sum + std::abs(each); });
        const double size = sum * static_cast<double>(c.matrix.scales[i]) / std::sqrt(static_cast<double>(rotation));
        bound.insert(bound.end(), static_cast<size_t>(rotation), size * sum_error(rotation));
      }
    }
    worst(DType::f32, expect_within(out, values(stored_goldens().tensor(name + ".kitchen")), bound, name));
  }
}

// The largest sums, of either sign, that whole numbers of 8 bits can have.
TEST(StoredWeight, RotatedSumsReachTheirEnds) {
  for (const int64_t rotation : {4, 16, 64, 256, 1024}) {
    const auto sign = [rotation](int64_t row, int64_t column) {
      int sign = 1;
      for (int64_t digit = 1; digit < rotation; digit *= 4)
        sign = row / digit % 4 + column / digit % 4 == 3 ? -sign : sign;
      return sign;
    };
    std::vector<int8_t> stored;
    for (const int ends : {1, -1}) {
      for (int64_t i = 0; i < rotation; ++i) stored.push_back(ends * sign(5 % rotation, i) > 0 ? 127 : -128);
    }
    Tensor expected(Device{}, DType::f32, {2, rotation});
    for (int64_t at = 0; at < 2 * rotation; ++at) {
      int sum = 0;
      for (int64_t i = 0; i < rotation; ++i)
        sum += sign(at % rotation, i) * stored[static_cast<size_t>(at / rotation * rotation + i)];
      expected.data<float>()[at] = static_cast<float>(sum) / std::sqrt(static_cast<float>(rotation));
    }
    const StoredMatrix matrix = StoredMatrix::whole({StoredType::i8, WeightScales::none, rotation}, 2, rotation,
                                                    reinterpret_cast<const std::byte*>(stored.data()));
    expect_numbers(std::array{in_one_piece(matrix)}, expected, fmt::format("rotation of {}", rotation));
  }
}

TEST(StoredWeight, ScalesMultiplyNumbersOfAnyType) {
  const float factors[] = {0.3f, -7.1f, 1e-3f};
  for (const char* name : {"q4_0", "q5_1", "q6_k", "iq4_xs", "f16", "bf16"}) {
    for (const WeightScales scales : {WeightScales::one, WeightScales::each_row}) {
      StoredCase c = stored_case(name);
      Tensor expected(Device{}, DType::f32, c.numbers.shape());
      for (int64_t i = 0; i < expected.shape().elements(); ++i) {
        const int64_t row = scales == WeightScales::one ? 0 : i / c.matrix.columns;
        expected.data<float>()[i] = c.numbers.data<float>()[i] * factors[row];
      }
      c.matrix.format.scales = scales;
      c.matrix.scales = factors;
      expect_numbers(std::array{in_one_piece(c.matrix)}, expected, c.name + " with scales");
    }
  }
}

// Rows of three matrices of different formats: one in runs between those of another, as gates and what they gate.
TEST(StoredWeight, PiecesStandWhereTheyShould) {
  const StoredCase a = stored_case("q4_k"), b = stored_case("q6_k"),
                   c = stored_case("i8.rotated64", WeightScales::each_row, 64);
  const std::vector<StoredPiece> pieces = {{a.matrix.row_range(0, 2), 1, 1, 2},
                                           {b.matrix.row_range(1, 2), 0, 1, 2},
                                           {c.matrix, 4, 2, 2},
                                           {a.matrix.row_range(2, 1), 7, 1, 1}};
  const std::vector<ConstView> rows = {b.numbers.rows(1, 1), a.numbers.rows(0, 1), b.numbers.rows(2, 1),
                                       a.numbers.rows(1, 1), c.numbers.rows(0, 1), c.numbers.rows(1, 1),
                                       c.numbers.rows(2, 1), a.numbers.rows(2, 1)};
  Tensor expected(Device{}, DType::f32, {8, 512});
  for (size_t i = 0; i < rows.size(); ++i) copy_bytes(rows[i], expected.view().rows(static_cast<int64_t>(i), 1));
  expect_numbers(pieces, expected, "pieces");
}

TEST(StoredWeight, ColumnsAreCutAtBlocks) {
  for (const StoredCase& c : stored_cases()) {
    const int64_t columns = c.matrix.columns;
    for (const int64_t count : {columns / 2, columns / 4}) {
      if (!c.matrix.can_cut_columns(columns - count, count)) continue;
      const StoredMatrix part = c.matrix.column_range(columns - count, count).row_range(1, c.matrix.rows - 1);
      Tensor expected(Device{}, DType::f32, {part.rows, count});
      for (int64_t i = 0; i < part.rows; ++i)
        std::copy_n(c.numbers.data<float>() + (i + 2) * columns - count, count, expected.data<float>() + i * count);
      expect_numbers(std::array{in_one_piece(part)}, expected, c.name + " cut");
    }
  }
}

TEST(StoredWeight, NumbersLieAnywhere) {
  for (const StoredCase& c : stored_cases()) {
    const size_t row_bytes = c.matrix.row_bytes(), stride = row_bytes + 3;
    std::vector<std::byte> shifted(static_cast<size_t>(c.matrix.rows) * stride + 1);
    for (int64_t i = 0; i < c.matrix.rows; ++i)
      std::memcpy(shifted.data() + 1 + static_cast<size_t>(i) * stride,
                  c.matrix.data + static_cast<size_t>(i) * row_bytes, row_bytes);
    StoredMatrix matrix = c.matrix;
    matrix.data = shifted.data() + 1;
    matrix.row_stride = stride;
    expect_numbers(std::array{in_one_piece(matrix)}, c.numbers, c.name + " shifted");
  }
}

// Numbers that do not end with a vector's.
TEST(StoredWeight, AnyNumberOfPlainColumns) {
  for (const char* name : {"f8_e4m3", "f8_e5m2", "i8"}) {
    const StoredCase c = stored_case(name);
    for (const int64_t columns : {1, 7, 9, 33, 127}) {
      const StoredMatrix matrix = StoredMatrix::whole(c.matrix.format, 2, columns, c.matrix.data + 1);
      Tensor expected(Device{}, DType::f32, {2, columns});
      std::copy_n(c.numbers.data<float>() + 1, 2 * columns, expected.data<float>());
      expect_numbers(std::array{in_one_piece(matrix)}, expected, fmt::format("{} {}", name, columns));
    }
  }
}

TEST(StoredWeight, EmbedsRowsOfATable) {
  Context ctx({}, 2);
  for (const StoredCase& c : stored_cases()) {
    const std::vector<int32_t> wanted = {1, 0, 1, static_cast<int32_t>(c.matrix.rows - 1), 0};
    const int64_t count = static_cast<int64_t>(wanted.size());
    Tensor ids(Device{}, DType::i32, {count});
    std::ranges::copy(wanted, ids.data<int32_t>());
    Guarded out(DType::f32, {count, c.matrix.columns});
    ops::embed(ctx, c.matrix, ids, out);
    for (int64_t i = 0; i < count; ++i)
      expect_same_bits(out.view().rows(i, 1), c.numbers.rows(wanted[static_cast<size_t>(i)], 1), c.name);
    out.expect_guards_untouched();
  }
  const Tensor none(Device{}, DType::i32, {0});
  Guarded empty(DType::f32, {0, 512});
  EXPECT_NO_THROW(ops::embed(ctx, stored_case("q4_k").matrix, none, empty));
}

TEST(StoredWeight, WrongPiecesAreRefused) {
  Context ctx({}, 1);
  const StoredCase c = stored_case("q4_k");
  const auto refused = [&](const StoredPiece& piece, const Shape& shape) {
    Guarded out(DType::f32, shape);
    EXPECT_THROW(ops::dequantise(ctx, std::array{piece}, out), Error);
  };
  Guarded out(DType::f32, {3, 512});
  EXPECT_NO_THROW(ops::dequantise(ctx, std::array{in_one_piece(c.matrix)}, out));
  refused(in_one_piece(c.matrix), {4, 512});     // a row is missing
  refused(in_one_piece(c.matrix, 1), {3, 512});  // one is outside
  refused(in_one_piece(c.matrix), {3, 256});     // other inputs
  refused({c.matrix, 0, 2, 1}, {3, 512});        // runs overlap
  StoredMatrix wrong = c.matrix;
  wrong.format.scales = WeightScales::one;  // which are missing
  refused(in_one_piece(wrong), {3, 512});
  wrong = c.matrix;
  wrong.format.rotation = 16;  // of no integers
  refused(in_one_piece(wrong), {3, 512});
  wrong = stored_case("i8").matrix;
  for (const int64_t rotation : {1, 8, 256, 16384}) {
    wrong.format.rotation = rotation;  // no power of 4, or too many
    refused(in_one_piece(wrong), {2, 128});
  }
  Guarded rounded(DType::bf16, {1, 512});
  Tensor ids(Device{}, DType::i32, {1});
  *ids.data<int32_t>() = 0;
  EXPECT_THROW(ops::embed(ctx, c.matrix, ids, rounded), Error);
}

}  // namespace
}  // namespace nostos
