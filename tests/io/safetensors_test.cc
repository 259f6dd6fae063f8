// Tests reading and writing safetensors, hostile files above all.
#include "io/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>
#include <vector>

#include "io/test_files.h"

namespace nostos {
namespace {

class Safetensors : public FolderTest {
 protected:
  /// Expects the file of this header and data to be refused for all of `parts`.
  void expect_refused(std::string_view header, std::string_view data,
                      std::initializer_list<std::string_view> parts) const {
    SCOPED_TRACE(header);
    expect_refused_bytes(safetensors_bytes(header, data), parts);
  }
  void expect_refused_bytes(std::string_view bytes, std::initializer_list<std::string_view> parts) const {
    const auto file = write("bad.safetensors", bytes);
    expect_error([&] { SafetensorsFile loaded(file); }, ErrorKind::model, {"bad.safetensors"});
    expect_error([&] { SafetensorsFile loaded(file); }, ErrorKind::model, parts);
  }
};

TEST_F(Safetensors, ReadsWhatTheReferenceWriterWrote) {
  const SafetensorsFile file(NOSTOS_SOURCE_DIR "/tests/data/io/reference.safetensors");
  EXPECT_EQ(file.tensors().size(), 5u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const ConstView matrix = file.tensor("matrix");
  EXPECT_EQ(matrix.shape(), (Shape{2, 3}));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(matrix.data<float>()[i], static_cast<float>(i));
  EXPECT_EQ(to_float(file.tensor("half").data<bfloat16>()[1]), -2.5f);
  EXPECT_EQ(file.tensor("bytes").data<uint8_t>()[2], 255);
  EXPECT_EQ(file.tensor("scalar").data<int64_t>()[0], -7);
  EXPECT_EQ(file.tensor("scalar").shape(), Shape());
  EXPECT_EQ(file.tensor("empty").shape(), (Shape{0, 4}));
  EXPECT_TRUE(file.tensor("empty"));
  expect_error([&] { file.tensor("matrices"); }, ErrorKind::model, {"reference.safetensors", "matrices"});
}

TEST_F(Safetensors, IsATensorFile) {
  const std::filesystem::path reference = NOSTOS_SOURCE_DIR "/tests/data/io/reference.safetensors";
  const std::unique_ptr<const TensorFile> file = open_tensor_file(reference);
  EXPECT_EQ(file->path(), reference);
  EXPECT_EQ(file->tensors(), SafetensorsFile(reference).tensors());
  file->will_need("matrix");
  file->release("matrix");
  file->release("none");
  EXPECT_EQ(file->tensor("matrix").data<float>()[5], 5.f);
  expect_error([&] { open_tensor_file(folder_ / "absent.gguf"); }, ErrorKind::model, {"absent.gguf"});
  expect_error([&] { open_tensor_file(write("other", "neither a header nor data")); }, ErrorKind::model, {"other"});
}

TEST_F(Safetensors, RoundTripIsExactAndDeterministic) {
  const std::vector<float> floats = {1.5f, -0.0f, 3e38f};
  const std::vector<uint8_t> odd = {1, 2, 3, 4, 5};
  const std::vector<NamedTensor> tensors = {
      {"odd", {reinterpret_cast<const std::byte*>(odd.data()), DType::u8, Shape{5}}},
      {"name \"quoted\" \xe7\x8c\xab", {reinterpret_cast<const std::byte*>(floats.data()), DType::f32, Shape{3, 1}}},
      {"nothing", {nullptr, DType::i64, Shape{0}}}};
  write_safetensors(folder_ / "a.safetensors", tensors, {{"format", "pt"}, {"seed", "42"}});
  write_safetensors(folder_ / "b.safetensors", tensors, {{"format", "pt"}, {"seed", "42"}});
  EXPECT_EQ(slurp(folder_ / "a.safetensors"), slurp(folder_ / "b.safetensors"));
  EXPECT_EQ(entries(folder_), 2);

  const SafetensorsFile file(folder_ / "a.safetensors");
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"seed", "42"}}));
  ASSERT_EQ(file.tensors().size(), 3u);
  for (const NamedTensor& wanted : tensors) {
    const ConstView got = file.tensor(wanted.name);
    EXPECT_EQ(got.dtype(), wanted.view.dtype());
    EXPECT_EQ(got.shape(), wanted.view.shape());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(got.bytes()) % size_bytes(got.dtype()), 0u);
    EXPECT_TRUE(std::equal(got.bytes(), got.bytes() + got.size_in_bytes(), wanted.view.bytes()));
  }
}

TEST_F(Safetensors, EmptyFilesAndPaddedHeadersAreValid) {
  write_safetensors(folder_ / "none.safetensors", {});
  EXPECT_TRUE(SafetensorsFile(folder_ / "none.safetensors").tensors().empty());
  EXPECT_TRUE(SafetensorsFile(write("padded", safetensors_bytes("{}      ", ""))).tensors().empty());
}

TEST_F(Safetensors, UnalignedDataIsReadRight) {
  // A header of 8k + 1 bytes leaves all data odd, as writers before padding did.
  std::string header =
      R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}})";
  while (header.size() % 8 != 1) header += ' ';
  const float values[2] = {1.25f, -7.0f};
  std::string data(reinterpret_cast<const char*>(values), 8);
  data += '\x2a';
  const SafetensorsFile file(write("odd.safetensors", safetensors_bytes(header, data)));
  EXPECT_EQ(file.tensor("x").shape(), Shape{2});
  EXPECT_EQ(std::memcmp(file.tensor("x").bytes(), values, sizeof(values)), 0);
  EXPECT_EQ(file.tensor("y").data<uint8_t>()[0], 42);
}

TEST_F(Safetensors, ReleasedPagesReadTheSameAgain) {
  std::vector<int64_t> values(300'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int64_t>(i);
  const ConstView view(reinterpret_cast<const std::byte*>(values.data()), DType::i64, Shape{300'000});
  write_safetensors(folder_ / "big.safetensors", std::vector<NamedTensor>{{"v", view}});
  const SafetensorsFile file(folder_ / "big.safetensors");
  for (int round = 0; round < 2; ++round) {
    file.will_need("v");
    EXPECT_EQ(std::memcmp(file.tensor("v").bytes(), values.data(), view.size_in_bytes()), 0);
    file.release("v");
  }
  EXPECT_NO_THROW(file.release("absent"));
  EXPECT_NO_THROW(file.will_need("absent"));
}

TEST_F(Safetensors, TruncatedFilesAreRefusedAtEveryLength) {
  const std::string whole =
      safetensors_bytes(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", std::string(8, 'd'));
  EXPECT_NO_THROW(SafetensorsFile(write("whole", whole)));
  for (size_t length = 0; length < whole.size(); ++length) {
    expect_refused_bytes(whole.substr(0, length), {"truncated"});
  }
  expect_refused_bytes(whole + "x", {"1 bytes of data after the last tensor"});
}

TEST_F(Safetensors, HeaderLengthsAreChecked) {
  expect_refused_bytes(std::string(8, '\xff') + "{}", {"18446744073709551615 bytes", "100000000"});
  expect_refused_bytes(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10), {"100000001"});
  expect_refused_bytes(std::string("\0\xe1\xf5\x05\0\0\0\0{}", 10), {"truncated"});
  expect_refused_bytes(std::string(8, '\0'), {"no JSON object"});
}

TEST_F(Safetensors, HostileHeadersAreRefused) {
  expect_refused("[]", "", {"no JSON object"});
  expect_refused(" {}", "", {"no JSON object"});
  expect_refused("{", "", {"not valid JSON"});
  expect_refused("{}\x01", "", {"not valid JSON"});
  expect_refused("{}{}", "", {"not valid JSON"});
  expect_refused("{\"\xff\":1}", "", {"not valid JSON"});
  expect_refused("{\"a\":" + std::string(200'000, '['), "", {"deeper than 3"});
  expect_refused(R"({"x":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", "d", {"deeper than 3"});
  expect_refused(
      R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
      "dd", {"'x'", "twice"});
  expect_refused(R"({"__metadata__":[]})", "", {"__metadata__", "[]", "object of strings"});
  expect_refused(R"({"__metadata__":{"k":1}})", "", {"'k'", "must be a string"});
}

TEST_F(Safetensors, WrongEntriesNameTheTensor) {
  const auto entry = [](std::string_view dtype, std::string_view shape, std::string_view offsets) {
    return fmt::format(R"({{"layers.0.w":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets);
  };
  const std::string data(8, 'd');
  EXPECT_NO_THROW(SafetensorsFile(write("good", safetensors_bytes(entry("\"F32\"", "[2]", "[0,8]"), data))));
  expect_refused(R"({"layers.0.w":3})", data, {"layers.0.w", "is 3, must be an object"});
  expect_refused(R"({"layers.0.w":{"shape":[2],"data_offsets":[0,8]}})", data, {"layers.0.w", "no 'dtype'"});
  expect_refused(R"({"layers.0.w":{"dtype":"F32","data_offsets":[0,8]}})", data, {"layers.0.w", "no 'shape'"});
  expect_refused(R"({"layers.0.w":{"dtype":"F32","shape":[2]}})", data, {"layers.0.w", "no 'data_offsets'"});
  expect_refused(entry("4", "[2]", "[0,8]"), data, {"layers.0.w", "dtype is 4"});
  expect_refused(entry("\"F32\"", "2", "[0,8]"), data, {"layers.0.w", "shape is 2"});
  expect_refused(entry("\"F32\"", "[1,1,1,1,1,3]", "[0,8]"), data, {"layers.0.w", "takes 12"});
  expect_refused(entry("\"F32\"", "[-2]", "[0,8]"), data, {"layers.0.w", "-2"});
  expect_refused(entry("\"F32\"", "[2.0]", "[0,8]"), data, {"layers.0.w", "2.0"});
  expect_refused(entry("\"F32\"", "[\"2\"]", "[0,8]"), data, {"layers.0.w", "\"2\""});
  expect_refused(entry("\"F32\"", "[18446744073709551615]", "[0,8]"), data, {"layers.0.w", "18446744073709551615"});
  expect_refused(entry("\"F32\"", "[4294967296,4294967296]", "[0,8]"), data, {"layers.0.w", "overflows"});
  expect_refused(entry("\"F32\"", "[2305843009213693952]", "[0,8]"), data, {"layers.0.w", "overflows"});
  expect_refused(entry("\"F32\"", "[3]", "[0,8]"), data, {"layers.0.w", "span 8 bytes, but F32 [3] takes 12"});
  expect_refused(entry("\"BF16\"", "[2]", "[0,8]"), data, {"layers.0.w", "BF16 [2] takes 4"});
  expect_refused(entry("\"F32\"", "[0]", "[0,8]"), data, {"layers.0.w", "takes 0"});
  expect_refused(entry("\"F32\"", "[2]", "[8,0]"), data, {"layers.0.w", "outside"});
  expect_refused(entry("\"F32\"", "[4]", "[0,16]"), data, {"layers.0.w", "outside the 8 bytes", "truncated"});
  expect_refused(entry("\"F32\"", "[2]", "[18446744073709551608,18446744073709551615]"), data,
                 {"layers.0.w", "data_offsets"});
  expect_refused(entry("\"F32\"", "[2]", "[0]"), data, {"layers.0.w", "[begin, end]"});
  expect_refused(entry("\"F32\"", "[2]", "\"0-8\""), data, {"layers.0.w", "[begin, end]"});
  expect_refused(entry("\"F32\"", "[2]", "[0,8.0]"), data, {"layers.0.w", "8.0"});
}

TEST_F(Safetensors, ATensorThatCannotBeUsedHarmsNoOther) {
  const auto file = write("mixed.safetensors", safetensors_bytes(
                                                   R"({"good":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
          "quantised":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[4,8]},
          "packed":{"dtype":"F4","shape":[4],"data_offsets":[8,10]},
          "deep":{"dtype":"U8","shape":[1,1,1,1,1,2],"data_offsets":[10,12]}})",
                                                   std::string("\0\0\x80\x3f", 4) + "quanp1d2"));
  const SafetensorsFile loaded(file);
  float good = 0;  // it lies where the header ends
  std::memcpy(&good, loaded.tensor("good").bytes(), sizeof good);
  EXPECT_EQ(good, 1.0f);
  EXPECT_EQ(loaded.tensors().at("quantised").dtype_name, "F8_E4M3");
  EXPECT_EQ(loaded.tensors().at("quantised").elements(), 4);
  EXPECT_EQ(loaded.tensors().at("deep").extents.size(), 6u);
  EXPECT_FALSE(loaded.tensors().at("deep").shape());
  expect_error([&] { loaded.tensor("quantised"); }, ErrorKind::model,
               {"mixed.safetensors", "'quantised' is F8_E4M3 [2, 2]", "F32", "BOOL", "5 axes"});
  expect_error([&] { loaded.tensor("packed"); }, ErrorKind::model, {"'packed' is F4 [4]"});
  expect_error([&] { loaded.tensor("deep"); }, ErrorKind::model, {"'deep' is U8 [1, 1, 1, 1, 1, 2]", "5 axes"});
}

TEST_F(Safetensors, UnknownTensorsCoverTheDataToo) {
  const auto unknown = [](std::string_view shape, std::string_view offsets) {
    return fmt::format(R"({{"x":{{"dtype":"C64","shape":{},"data_offsets":{}}}}})", shape, offsets);
  };
  EXPECT_NO_THROW(SafetensorsFile(write("good", safetensors_bytes(unknown("[1]", "[0,8]"), "01234567"))));
  expect_refused(unknown("[1]", "[0,8]"), "012345678", {"1 bytes of data after"});
  expect_refused(unknown("[1]", "[1,8]"), "01234567", {"hole of 1 bytes"});
  expect_refused(unknown("[1]", "[0,9]"), "01234567", {"'x'", "outside the 8 bytes"});
  expect_refused(unknown("[4294967296,4294967296]", "[0,8]"), "01234567", {"'x'", "overflows"});
}

TEST_F(Safetensors, SizesOf64BitsAreExact) {
  const auto refused = [&](std::string_view shape, std::string_view offsets, std::string_view why) {
    expect_refused(fmt::format(R"({{"x":{{"dtype":"U8","shape":{},"data_offsets":{}}}}})", shape, offsets), "d",
                   {"'x'", why});
  };
  refused("[9223372036854775807]", "[0,9223372036854775807]", "outside the 1 bytes");
  refused("[9223372036854775807]", "[9223372036854775807,9223372036854775807]", "outside the 1 bytes");
  refused("[9223372036854775808]", "[0,1]", "2^63 - 1");
  refused("[9223372036854775807,2]", "[0,1]", "overflows");
  refused("[1]", "[0,9223372036854775808]", "2^63 - 1");
  refused("[1]", "[0,1e3]", "2^63 - 1");
}

TEST_F(Safetensors, AGitLfsPointerIsNamedAsSuch) {
  // Its first eight bytes would read as a header of 2336927755350992246 bytes.
  expect_refused_bytes("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
                       {"git-lfs pointer", "git lfs pull"});
  expect_refused_bytes("version x\noid sha256:0\nsize 9\n", {"git-lfs pointer", "git lfs pull"});
}

TEST_F(Safetensors, AFileThatIsCutShortWhileItIsOpenIsAnError) {
  const auto bytes_of = [](size_t count) {
    return safetensors_bytes(fmt::format(R"({{"x":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}})", count),
                             std::string(count, 'd'));
  };
  const SafetensorsFile large(write("large.safetensors", bytes_of(MappedFile::kReadBytes)));
  EXPECT_NO_THROW(large.tensor("x"));
  std::filesystem::resize_file(large.path(), 5000);
  expect_error([&] { large.tensor("x"); }, ErrorKind::model, {"large.safetensors", "cut from", "to 5000 bytes"});

  const SafetensorsFile small(write("small.safetensors", bytes_of(1000)));
  std::filesystem::resize_file(small.path(), 0);
  small.release("x");
  EXPECT_EQ(small.tensor("x").data<uint8_t>()[999], 'd') << "a small file is read when it is opened";
}

TEST_F(Safetensors, OverlapsAndHolesAreRefused) {
  const auto two = [](std::string_view a, std::string_view b) {
    return fmt::format(
        R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})",
        a, b);
  };
  EXPECT_NO_THROW(SafetensorsFile(write("good", safetensors_bytes(two("[4,8]", "[0,4]"), "01234567"))));
  expect_refused(two("[0,4]", "[3,7]"), "0123456", {"'a' and 'b' overlap"});
  expect_refused(two("[0,4]", "[0,4]"), "0123", {"'a' and 'b' overlap"});
  expect_refused(two("[0,4]", "[5,9]"), "012345678", {"hole of 1 bytes before tensor 'b'"});
  expect_refused(two("[1,5]", "[5,9]"), "012345678", {"hole of 1 bytes before tensor 'a'"});
  expect_refused(two("[0,4]", "[4,8]"), "012345678", {"1 bytes of data after"});
}

TEST_F(Safetensors, MissingFilesAndFoldersAreModelErrors) {
  expect_error([&] { SafetensorsFile file(folder_ / "absent.safetensors"); }, ErrorKind::model,
               {"absent.safetensors", "No such file"});
  expect_error([&] { SafetensorsFile file(folder_.string()); }, ErrorKind::model, {"it is no file"});
}

TEST_F(Safetensors, FailedWriteLeavesNothing) {
  const std::vector<std::byte> bytes(100'000);
  const std::vector<NamedTensor> tensors = {{"x", {bytes.data(), DType::u8, Shape{100'000}}}};
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_error([&] { write_safetensors(folder_ / "x.safetensors", tensors); }, ErrorKind::internal, {"x.safetensors"});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(entries(folder_), 0);

  std::filesystem::create_symlink("/dev/full", folder_ / "full.safetensors");
  expect_error([&] { write_safetensors(folder_ / "full.safetensors", tensors); }, ErrorKind::internal,
               {"no space left"});
  expect_error([&] { write_safetensors(folder_ / "absent" / "x.safetensors", tensors); }, ErrorKind::invalid_input,
               {"does not exist"});
}

}  // namespace
}  // namespace nostos
