// Tests reading GGUF files, hostile files above all.
#include "io/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "io/gguf_bytes.h"
#include "io/test_files.h"
#include "tensor/half.h"
#include "tensor/weight_format.h"

namespace nostos {
namespace {

constexpr uint32_t kF32 = 0, kQ4Zero = 2, kQ8Zero = 8, kQ4K = 12, kIq2Xxs = 16, kI8 = 24;

GgufHeader parse(std::string_view bytes) {
  return parse_gguf_header(std::as_bytes(std::span(bytes)), bytes.size(), "bad.gguf");
}

void expect_refused(std::string_view bytes, std::initializer_list<std::string_view> parts) {
  expect_error([&] { parse(bytes); }, ErrorKind::model, {"bad.gguf"});
  expect_error([&] { parse(bytes); }, ErrorKind::model, parts);
}

class Gguf : public FolderTest {};

TEST_F(Gguf, ReadsWhatTheReferenceWriterWrote) {
  const GgufFile file(NOSTOS_SOURCE_DIR "/tests/data/io/reference.gguf");
  const std::map<std::string, std::string> wanted = {{"general.architecture", "lumina2"},
                                                     {"general.alignment", "64"},
                                                     {"test.u8", "255"},
                                                     {"test.i8", "-128"},
                                                     {"test.u16", "65535"},
                                                     {"test.i16", "-32768"},
                                                     {"test.u32", "4294967295"},
                                                     {"test.i32", "-2147483648"},
                                                     {"test.u64", "18446744073709551615"},
                                                     {"test.i64", "-9223372036854775808"},
                                                     {"test.f32", "0.5"},
                                                     {"test.f64", "0.1"},
                                                     {"test.yes", "true"},
                                                     {"test.no", "false"},
                                                     {"test.text", "a 猫\n"}};
  EXPECT_EQ(file.metadata(), wanted);
  const auto& arrays = file.header().arrays;
  ASSERT_EQ(arrays.size(), 4u);
  EXPECT_EQ(arrays.at("test.strings").strings(), (std::vector<std::string_view>{"", "Ġthe", "cat"}));
  EXPECT_EQ(arrays.at("test.integers").integers(), (std::vector<int64_t>{3, -4, 5}));
  EXPECT_EQ(arrays.at("test.floats").count, 2u);
  EXPECT_FALSE(arrays.at("test.floats").integers());
  EXPECT_FALSE(arrays.at("test.floats").strings());
  EXPECT_FALSE(arrays.at("test.integers").strings());
  EXPECT_FALSE(arrays.at("test.strings").integers());

  ASSERT_EQ(file.tensors().size(), 9u);
  EXPECT_EQ(file.tensor("matrix").shape(), (Shape{2, 3}));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(file.tensor("matrix").data<float>()[i], static_cast<float>(i));
  EXPECT_EQ(file.tensor("half").dtype(), DType::f16);
  EXPECT_EQ(to_float(file.tensor("brain").data<bfloat16>()[1]), -2.5f);
  EXPECT_EQ(file.tensor("codes").dtype(), DType::i8);
  EXPECT_EQ(static_cast<int8_t>(file.tensor("codes").bytes()[3]), 127);
  EXPECT_EQ(file.tensor("ids").data<int64_t>()[0], -7);
  EXPECT_EQ(file.tensor("reshaped").shape(), (Shape{4, 16, 4}));
  EXPECT_EQ(file.tensor("reshaped").data<float>()[255], 255.f);
}

TEST_F(Gguf, GivesBlocksAsTheyAreStored) {
  const GgufFile file(NOSTOS_SOURCE_DIR "/tests/data/io/reference.gguf");
  const TensorInfo& q8 = file.tensors().at("q8");
  EXPECT_EQ(q8.dtype_name, "Q8_0");
  EXPECT_EQ(q8.extents, (std::vector<int64_t>{2, 64}));
  EXPECT_EQ(file.bytes("q8").size(), 4u * 34);
  EXPECT_EQ(file.bytes("q4").size(), 4u * 18);
  EXPECT_EQ(file.tensors().at("q4").dtype_name, "Q4_0");
  EXPECT_EQ(file.tensors().at("vector").extents, std::vector<int64_t>{64});
  // A block of Q8_0 is a half and 32 numbers: here those of [-1, 1] in 128 steps.
  const std::span<const std::byte> blocks = file.bytes("q8");
  for (size_t i = 0; i < 128; ++i) {
    const std::byte* block = blocks.data() + i / 32 * 34;
    const float scale =
        half_to_float(static_cast<uint16_t>(std::to_integer<int>(block[0]) | std::to_integer<int>(block[1]) << 8));
    const float value = scale * static_cast<float>(static_cast<int8_t>(block[2 + i % 32]));
    EXPECT_NEAR(value, -1.0 + 2.0 * static_cast<double>(i) / 127.0, 0.5 / 127 + 5e-4) << i;
  }
  expect_error([&] { file.tensor("q8"); }, ErrorKind::model, {"reference.gguf", "'q8' is Q8_0 [2, 64]", "BF16"});
  expect_error([&] { file.tensor("q9"); }, ErrorKind::model, {"reference.gguf", "has no tensor 'q9'"});
  expect_error([&] { file.bytes("q9"); }, ErrorKind::model, {"reference.gguf", "has no tensor 'q9'"});
}

TEST_F(Gguf, IsChosenByContentAlone) {
  const std::string bytes = slurp(NOSTOS_SOURCE_DIR "/tests/data/io/reference.gguf");
  const std::unique_ptr<const TensorFile> file = open_tensor_file(write("model.safetensors", bytes));
  EXPECT_EQ(file->metadata().at("general.architecture"), "lumina2");
  const auto other = write("model.gguf", slurp(NOSTOS_SOURCE_DIR "/tests/data/io/reference.safetensors"));
  EXPECT_EQ(open_tensor_file(other)->metadata().at("format"), "pt");
  EXPECT_FALSE(is_gguf(folder_));
  EXPECT_FALSE(is_gguf(folder_ / "absent"));
  EXPECT_FALSE(is_gguf(write("short", "GGU")));
  expect_error([&] { GgufFile absent(folder_ / "absent.gguf"); }, ErrorKind::model, {"absent.gguf", "No such file"});
  expect_error(
      [&] { GgufFile pointer(write("lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n")); },
      ErrorKind::model, {"git-lfs pointer"});
}

TEST_F(Gguf, ReadsFilesWithoutKeys) {
  GgufBytes file;
  file.tensor("norm", {32}, kQ8Zero, std::string(34, 'n'))
      .tensor("pad", {256, 1}, kQ4K, std::string(144, 'p'))
      .tensor("one", {}, kF32, number_bytes(1.5f))
      .tensor("none", {0, 3}, kF32, "");
  for (const uint32_t version : {2u, 3u}) {
    file.version = version;
    const GgufFile loaded(write("sd.gguf", file.bytes()));
    EXPECT_TRUE(loaded.metadata().empty());
    EXPECT_EQ(loaded.tensors().at("norm"), (TensorInfo{"Q8_0", {32}, 0, 34}));
    EXPECT_EQ(loaded.tensors().at("pad"), (TensorInfo{"Q4_K", {1, 256}, 64, 208}));
    EXPECT_EQ(loaded.tensor("one").shape(), Shape());
    EXPECT_EQ(loaded.tensor("one").data<float>()[0], 1.5f);
    EXPECT_EQ(loaded.tensor("none").shape(), (Shape{3, 0}));
    EXPECT_TRUE(loaded.tensor("none"));
  }
  EXPECT_TRUE(parse(GgufBytes().bytes()).tensors.empty());
  EXPECT_TRUE(parse(GgufBytes().bytes().substr(0, 24)).tensors.empty()) << "without padding";
}

TEST_F(Gguf, NamesEveryTypeAsWeightsDo) {
  int known = 0;
  for (uint32_t number = 0; number < 42; ++number) {
    if (number == 4 || number == 5 || (number >= 31 && number <= 33) || (number >= 36 && number <= 38)) continue;
    // 256 numbers are whole blocks of every type, and take at most 2048 bytes.
    const std::string bytes = GgufBytes().tensor("t", {256}, number, std::string(2048, 't')).bytes();
    const TensorInfo info = parse(bytes).tensors.at("t");
    if (const std::optional<StoredType> type = parse_stored_type(info.dtype_name)) {
      ++known;
      EXPECT_EQ(info.end - info.begin, 256 / static_cast<size_t>(block_elements(*type)) * block_bytes(*type))
          << info.dtype_name;
    }
    if (const std::optional<DType> dtype = info.dtype()) {
      EXPECT_EQ(info.end - info.begin, 256 * size_bytes(*dtype)) << info.dtype_name;
    }
  }
  EXPECT_EQ(known, 16) << "all but the two kinds of 8-bit floating point numbers, which GGUF has not";
  EXPECT_EQ(parse(GgufBytes().tensor("t", {256}, kIq2Xxs, std::string(66, 't')).bytes()).tensors.at("t").dtype_name,
            "IQ2_XXS");
}

TEST_F(Gguf, PagesThatAreReleasedReadTheSameAgain) {
  std::string values(MappedFile::kReadBytes + 32, '\0');
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<char>(i * 7);
  const GgufFile file(write("big.gguf", GgufBytes().tensor("v", {values.size()}, kI8, values).bytes()));
  for (int round = 0; round < 2; ++round) {
    file.will_need("v");
    const std::span<const std::byte> bytes = file.bytes("v");
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()), values);
    file.release("v");
  }
  EXPECT_NO_THROW(file.will_need("absent"));
  EXPECT_NO_THROW(file.release("absent"));
  std::filesystem::resize_file(file.path(), 5000);
  expect_error([&] { file.bytes("v"); }, ErrorKind::model, {"big.gguf", "cut from"});
  expect_error([&] { file.tensor("v"); }, ErrorKind::model, {"big.gguf", "cut from"});
}

TEST_F(Gguf, OtherVersionsAndByteOrdersAreNamed) {
  const auto of_version = [](uint32_t version) {
    GgufBytes file;
    file.version = version;
    return file.bytes();
  };
  expect_refused(of_version(1), {"GGUF version 1", "versions 2 and 3"});
  expect_refused(of_version(4), {"GGUF version 4", "versions 2 and 3"});
  expect_refused(of_version(0), {"GGUF version 0"});
  expect_refused(of_version(0x03000000), {"big-endian"});
  expect_refused("GGML" + of_version(3).substr(4), {"does not begin with the word GGUF"});
}

TEST_F(Gguf, TruncatedFilesAreRefusedAtEveryLength) {
  GgufBytes file;
  file.text("general.architecture", "lumina2")
      .key("k", GgufType::u16, number_bytes<uint16_t>(7))
      .integers("i", {1, 2})
      .texts("s", {"a", "bc"})
      .tensor("x", {32, 2}, kQ8Zero, std::string(68, 'd'));
  const std::string whole = file.bytes();
  EXPECT_NO_THROW(parse(whole));
  for (size_t length = 0; length < whole.size(); ++length) expect_refused(whole.substr(0, length), {"truncated"});
  EXPECT_NO_THROW(parse(whole + "what follows is no tensor's"));
  // The header alone is enough where the file's size is known.
  const std::span<const std::byte> start = std::as_bytes(std::span(whole));
  EXPECT_EQ(parse_gguf_header(start.first(start.size() - 68), whole.size(), "f").tensors.at("x").end, 68u);
}

TEST_F(Gguf, CountsBeyondTheFileAreRefused) {
  const auto claiming = [](uint64_t tensors, uint64_t keys) {
    GgufBytes file;
    file.text("k", "v").tensor("x", {1}, kF32, "1234");
    file.tensor_count = tensors;
    file.key_count = keys;
    return file.bytes();
  };
  EXPECT_NO_THROW(parse(claiming(1, 1)));
  expect_refused(claiming(uint64_t{1} << 60, 1), {"1152921504606846976 tensors"});
  expect_refused(claiming(1, ~uint64_t{0}), {"18446744073709551615 keys"});
  expect_refused(claiming(2, 1), {"name of tensor 1 is empty"});
  EXPECT_THROW(parse(claiming(1, 2)), Error);
  EXPECT_THROW(parse(claiming(1, 0)), Error);
}

TEST_F(Gguf, WrongValuesNameTheKey) {
  const auto with = [](GgufType type, std::string_view value) { return GgufBytes().key("a.key", type, value).bytes(); };
  expect_refused(with(static_cast<GgufType>(13), ""), {"'a.key'", "value type 13", "0 to 12"});
  expect_refused(with(GgufType::boolean, "\x02"), {"'a.key'", "is 2", "0 or 1"});
  expect_refused(with(GgufType::string, number_bytes<uint64_t>(1000)), {"'a.key'", "1000 bytes", "truncated"});
  expect_refused(with(GgufType::string, number_bytes(~uint64_t{0})), {"'a.key'", "18446744073709551615 bytes"});
  const auto array = [](uint32_t type, uint64_t count, std::string_view elements = "") {
    return GgufBytes().array("an.array", static_cast<GgufType>(type), count, elements).bytes();
  };
  expect_refused(array(13, 0), {"'an.array'", "value type 13"});
  expect_refused(array(0, 1000), {"'an.array'", "1000 elements"});
  expect_refused(array(10, uint64_t{1} << 61), {"'an.array'", "2305843009213693952 elements"});
  expect_refused(array(8, uint64_t{1} << 61), {"'an.array'", "2305843009213693952 elements"});
  expect_refused(array(8, 1, number_bytes<uint64_t>(1 << 20)), {"'an.array'", "1048576 bytes"});
  std::string nested;
  for (int i = 0; i < 4; ++i) nested += number_bytes<uint32_t>(9) + number_bytes<uint64_t>(1);
  expect_refused(array(9, 1, nested + number_bytes<uint32_t>(0) + number_bytes<uint64_t>(0)),
                 {"'an.array'", "deeper than 4"});
  EXPECT_EQ(
      parse(array(9, 1, number_bytes<uint32_t>(0) + number_bytes<uint64_t>(2) + "ab")).arrays.at("an.array").count, 1u);
  expect_refused(GgufBytes().text("twice", "a").text("twice", "b").bytes(), {"'twice'", "occurs twice"});
  expect_refused(GgufBytes().text("twice", "a").integers("twice", {1}).bytes(), {"'twice'", "occurs twice"});
  expect_refused(GgufBytes().text("", "a").bytes(), {"name of key 0 is empty"});
  expect_refused(GgufBytes().text("\xff", "a").bytes(), {"name of key 0", "no UTF-8"});
  EXPECT_EQ(parse(GgufBytes().text("k", "a\xff").bytes()).metadata.at("k"), "a\uFFFD");
}

TEST_F(Gguf, AlignmentIsCheckedAndKept) {
  const auto with = [](uint32_t alignment, uint64_t written) {
    GgufBytes file;
    file.alignment = written;
    file.key("general.alignment", GgufType::u32, number_bytes(alignment));
    return file.tensor("a", {1}, kF32, "aaaa").tensor("b", {1}, kF32, number_bytes(2.f)).bytes();
  };
  for (const uint32_t alignment : {8u, 32u, 4096u}) {
    const GgufFile file(write("aligned.gguf", with(alignment, alignment)));
    EXPECT_EQ(file.tensors().at("b").begin, alignment);
    EXPECT_EQ(file.tensor("b").data<float>()[0], 2.f);
  }
  for (const uint32_t wrong : {0u, 4u, 12u, 33u})
    expect_refused(with(wrong, 32), {"'general.alignment'", "power of two from 8 on"});
  expect_refused(with(64, 32), {"tensor 'b' begins at byte 32", "multiple of 64"});
  expect_refused(GgufBytes().text("general.alignment", "32").bytes(),
                 {"'general.alignment'", "value type 8", "32-bit"});
  expect_refused(GgufBytes().key("general.alignment", GgufType::u64, number_bytes<uint64_t>(32)).bytes(),
                 {"value type 10"});
  expect_refused(GgufBytes().integers("general.alignment", {32}).bytes(), {"'general.alignment'", "value type 9"});
}

TEST_F(Gguf, WrongTensorsAreNamed) {
  const auto one = [](const std::vector<uint64_t>& extents, uint32_t type, uint64_t offset = 0) {
    return GgufBytes().tensor_at("layers.0.w", extents, type, offset, std::string(64, 'd')).bytes();
  };
  EXPECT_NO_THROW(parse(one({4, 4}, kF32)));
  expect_refused(one({1, 1, 1, 1, 1, 1, 1, 1, 1}, kF32), {"'layers.0.w' has 9 axes", "at most 8"});
  expect_refused(one({~uint64_t{0}}, kF32), {"'layers.0.w'", "overflow"});
  expect_refused(one({uint64_t{1} << 32, uint64_t{1} << 32}, kF32), {"'layers.0.w'", "overflow"});
  // The product of row-major extents overflows before the last of them, which is 0.
  expect_refused(one({0, uint64_t{1} << 32, uint64_t{1} << 32}, kF32), {"'layers.0.w'", "overflow"});
  expect_refused(one({uint64_t{1} << 61}, kF32), {"'layers.0.w'", "overflows"});
  expect_refused(one({uint64_t{1} << 40}, kF32), {"'layers.0.w'", "F32 [1099511627776]", "truncated"});
  expect_refused(one({17}, kF32), {"'layers.0.w'", "F32 [17]", "bytes 0 to 68", "which has 64"});
  expect_refused(one({16}, kF32, 32), {"'layers.0.w'", "bytes 32 to 96", "which has 64"});
  expect_refused(one({1}, kF32, 4), {"'layers.0.w' begins at byte 4", "multiple of 32"});
  expect_refused(one({1}, kF32, uint64_t{1} << 63), {"'layers.0.w'", "overflows"});
  expect_refused(one({1}, kF32, ~uint64_t{31}), {"'layers.0.w'", "overflows"});
  expect_refused(one({0}, kF32, uint64_t{1} << 62), {"'layers.0.w'", "truncated"});
  expect_refused(one({33}, kQ4Zero), {"'layers.0.w' is Q4_0 [33]", "whole blocks of 32"});
  expect_refused(one({16, 2}, kQ4Zero), {"'layers.0.w' is Q4_0 [2, 16]", "whole blocks of 32"});
  expect_refused(one({}, kQ4Zero), {"'layers.0.w' is Q4_0 []", "whole blocks of 32"});
  expect_refused(one({256}, 42), {"'layers.0.w'", "type 42", "0 to 41"});
  expect_refused(one({32}, ~uint32_t{0}), {"'layers.0.w'", "type 4294967295"});
  expect_refused(one({32}, 31), {"'layers.0.w' is Q4_0_4_4", "removed"});
  expect_refused(GgufBytes().tensor("w", {1}, kF32, "1234").tensor("w", {1}, kF32, "1234").bytes(),
                 {"'w' occurs twice"});
  expect_refused(GgufBytes().tensor("", {1}, kF32, "1234").bytes(), {"name of tensor 0 is empty"});
  expect_refused(GgufBytes().tensor("\xc3", {1}, kF32, "1234").bytes(), {"name of tensor 0", "no UTF-8"});
}

TEST_F(Gguf, OverlapsAreRefusedAndHolesAreNot) {
  const auto two = [](uint64_t a, uint64_t b) {
    return GgufBytes().tensor_at("a", {9}, kF32, a, "").tensor_at("b", {8}, kF32, b, std::string(160, 'd')).bytes();
  };
  EXPECT_NO_THROW(parse(two(0, 64)));
  EXPECT_NO_THROW(parse(two(32, 0)));
  EXPECT_NO_THROW(parse(two(0, 128)));
  expect_refused(two(0, 32), {"'a' and 'b' overlap"});
  expect_refused(two(32, 32), {"overlap"});
  EXPECT_NO_THROW(
      parse(GgufBytes().tensor_at("a", {0}, kF32, 0, "").tensor_at("b", {8}, kF32, 0, std::string(32, 'd')).bytes()));
}

TEST_F(Gguf, OriginalShapesAreHonoured) {
  const std::string key = "comfy.gguf.orig_shape.w";
  const auto with = [&](const std::vector<int32_t>& shape) {
    return GgufBytes().integers(key, shape).tensor("w", {256, 2}, kQ4Zero, std::string(288, 'w')).bytes();
  };
  EXPECT_EQ(parse(with({8, 64})).tensors.at("w").extents, (std::vector<int64_t>{8, 64}));
  EXPECT_EQ(parse(with({32, 4, 2, 2})).tensors.at("w"), (TensorInfo{"Q4_0", {32, 4, 2, 2}, 0, 288}));
  expect_refused(with({8, 63}), {"'" + key + "'", "gives 504 elements", "Q4_0 [2, 256]", "has 512"});
  expect_refused(with({}), {"gives 1 elements"});
  expect_refused(with({-8, -64}), {"extents", "from 0 on"});
  expect_refused(with({2147483647, 2147483647, 2147483647}), {"2^63 - 1"});
  expect_refused(with({1, 1, 1, 1, 1, 1, 1, 1, 512}), {"at most 8 extents"});
  const auto file = [&](GgufType type, uint64_t count, std::string_view elements) {
    return GgufBytes().array(key, type, count, elements).tensor("w", {1}, kF32, "1234").bytes();
  };
  EXPECT_EQ(parse(file(GgufType::u64, 1, number_bytes<uint64_t>(1))).tensors.at("w").extents, std::vector<int64_t>{1});
  expect_refused(file(GgufType::u64, 1, number_bytes(~uint64_t{0})), {"which are integers"});
  expect_refused(file(GgufType::f32, 1, number_bytes(1.f)), {"which are integers"});
  expect_refused(GgufBytes().text(key, "[1]").tensor("w", {1}, kF32, "1234").bytes(), {"must be an array of extents"});
  EXPECT_NO_THROW(parse(GgufBytes().text(key + "x", "[1]").tensor("w", {1}, kF32, "1234").bytes()));
}

}  // namespace
}  // namespace nostos
