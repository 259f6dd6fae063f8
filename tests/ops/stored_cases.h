// Owns the golden cases of stored weights: matrices of every format, and the numbers of the formats' references.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "ops/stored_weight.h"
#include "ops/support.h"

namespace nostos {

inline const SafetensorsFile& stored_goldens() {
  const char* moved = std::getenv("NOSTOS_SOURCE_DIR");  // of a program that was carried to another machine
  const std::string root = moved != nullptr ? moved : NOSTOS_SOURCE_DIR;
  static const SafetensorsFile file(root + "/tests/data/stored_numbers.safetensors");
  return file;
}

/// A case of the golden file.
struct StoredCase {
  std::string name;
  StoredMatrix matrix;
  ConstView numbers;  ///< f32 [rows, columns]
};

/// \param name of the case: that of its type in small letters, and maybe more after a dot
inline StoredCase stored_case(const std::string& name, WeightScales scales = WeightScales::none, int64_t rotation = 0) {
  std::string type = name.substr(0, name.find('.'));
  std::ranges::transform(type, type.begin(), [](unsigned char c) { return std::toupper(c); });
  const SafetensorsFile& file = stored_goldens();
  const ConstView bytes = file.tensor(name + ".bytes"), numbers = file.tensor(name + ".numbers");
  const float* factors = scales == WeightScales::none ? nullptr : file.tensor(name + ".scales").data<float>();
  const WeightFormat format{parse_stored_type(type).value(), scales, rotation};
  return {name, StoredMatrix::whole(format, numbers.shape()[0], numbers.shape()[1], bytes.bytes(), factors), numbers};
}

inline const std::vector<StoredCase>& stored_cases() {
  static const std::vector<StoredCase> cases = [] {
    std::vector<StoredCase> all;
    for (const char* name : {"f32", "f16", "bf16", "f8_e4m3", "f8_e5m2", "i8", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0",
                             "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"})
      all.push_back(stored_case(name));
    for (const std::string name : {"f8_e4m3", "f8_e5m2", "i8"}) {
      all.push_back(stored_case(name + ".one", WeightScales::one));
      all.push_back(stored_case(name + ".each_row", WeightScales::each_row));
    }
    for (const int64_t rotation : {16, 64, 256}) {
      const std::string name = fmt::format("i8.rotated{}", rotation);
      all.push_back(stored_case(name, WeightScales::each_row, rotation));
      all.push_back(stored_case(name + "_exact", WeightScales::each_row, rotation));
    }
    return all;
  }();
  return cases;
}

inline StoredPiece in_one_piece(const StoredMatrix& matrix, int64_t begin = 0) {
  return {matrix, begin, matrix.rows, matrix.rows};
}

/// Expects equal bits, and names the first number of others.
inline void expect_same_bits(ConstView actual, ConstView expected, const std::string& what) {
  ASSERT_EQ(actual.shape(), expected.shape()) << what;
  const size_t element = size_bytes(actual.dtype());
  for (size_t i = 0; i < actual.size_in_bytes(); i += element) {
    ASSERT_EQ(std::memcmp(actual.bytes() + i, expected.bytes() + i, element), 0)
        << what << " number " << i / element << ": " << value_at(actual, static_cast<int64_t>(i / element))
        << " instead of " << value_at(expected, static_cast<int64_t>(i / element));
  }
}

/// \return f32 numbers rounded to bf16.
inline Tensor rounded_to_bf16(ConstView numbers) {
  Tensor made(Device{}, DType::bf16, numbers.shape());
  for (int64_t i = 0; i < numbers.elements(); ++i) made.data<bfloat16>()[i] = to_bfloat16(numbers.data<float>()[i]);
  return made;
}

}  // namespace nostos
