// Tests finding weights in one file and in shards.
#include "io/weight_store.h"

#include <gtest/gtest.h>

#include "io/test_files.h"

namespace nostos {
namespace {

/// A file of one-byte tensors whose values are the first letters of their names.
std::string bytes_file(std::initializer_list<std::string_view> names) {
  std::string header = "{";
  std::string data;
  for (const std::string_view name : names) {
    header += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}})", data.empty() ? "" : ",",
                          name, data.size(), data.size() + 1);
    data += name.front();
  }
  return safetensors_bytes(header + "}", data);
}

class WeightStoreTest : public FolderTest {
 protected:
  void write_index(std::string_view weight_map) const {
    write("model.safetensors.index.json",
          fmt::format(R"({{"metadata":{{"total_size":3}},"weight_map":{}}})", weight_map));
  }
  void expect_refused(std::initializer_list<std::string_view> parts) const {
    expect_error([&] { WeightStore::open(folder_); }, ErrorKind::model, parts);
  }
};

TEST_F(WeightStoreTest, OneFileOfEitherStem) {
  for (const char* name : {"model.safetensors", "diffusion_pytorch_model.safetensors"}) {
    const auto file = write(name, bytes_file({"b", "a"}));
    WeightStore store = WeightStore::open(folder_);
    EXPECT_EQ(store.folder(), folder_);
    EXPECT_EQ(store.where("a"), file.string());
    EXPECT_EQ(store.where("absent"), folder_.string());
    EXPECT_EQ(store.list().size(), 2u);
    EXPECT_EQ(store.list()[0].first, "a");
    std::filesystem::remove(file);
  }
}

TEST_F(WeightStoreTest, ShardsReadAsOneAndUseIsRecorded) {
  write("model-1.safetensors", bytes_file({"a", "c"}));
  write("model-2.safetensors", bytes_file({"b"}));
  write_index(R"({"a":"model-1.safetensors","c":"model-1.safetensors","b":"model-2.safetensors"})");
  WeightStore store = WeightStore::open(folder_);
  EXPECT_EQ(store.unused(), (std::vector<std::string>{"a", "b", "c"}));
  const std::optional<ConstView> b = store.find("b");
  ASSERT_TRUE(b.has_value());
  EXPECT_EQ(b->data<uint8_t>()[0], 'b');
  EXPECT_FALSE(store.find("absent").has_value());
  EXPECT_EQ(store.unused(), (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(store.where("b"), (folder_ / "model-2.safetensors").string());
  store.will_need("a");
  store.release("b");
  EXPECT_EQ(b->data<uint8_t>()[0], 'b');
  WeightStore moved = std::move(store);
  EXPECT_EQ(b->data<uint8_t>()[0], 'b') << "a view survives the move of its store";
}

TEST_F(WeightStoreTest, NothingFoundListsWhatWasLookedFor) {
  expect_refused({folder_.string(), "diffusion_pytorch_model.safetensors", "model.safetensors.index.json"});
  expect_error([&] { WeightStore::open(folder_ / "absent"); }, ErrorKind::model, {"absent", "no weights"});
}

TEST_F(WeightStoreTest, TwoSetsAreRefused) {
  write("model.safetensors", bytes_file({"a"}));
  write("diffusion_pytorch_model.safetensors", bytes_file({"a"}));
  expect_refused({"two sets of weights", "diffusion_pytorch_model.safetensors", "model.safetensors"});
}

TEST_F(WeightStoreTest, AMissingShardIsNamed) {
  write("model-1.safetensors", bytes_file({"a"}));
  write_index(R"({"a":"model-1.safetensors","b":"model-2.safetensors"})");
  expect_refused({"model-2.safetensors", "missing", "index.json"});
}

TEST_F(WeightStoreTest, ADamagedShardIsNamed) {
  write("model-1.safetensors", bytes_file({"a"}).substr(0, 20));
  write_index(R"({"a":"model-1.safetensors"})");
  expect_refused({"model-1.safetensors", "truncated"});
}

TEST_F(WeightStoreTest, ATensorInTwoShardsIsRefused) {
  write("model-1.safetensors", bytes_file({"a", "b"}));
  write("model-2.safetensors", bytes_file({"b"}));
  write_index(R"({"a":"model-1.safetensors","b":"model-2.safetensors"})");
  expect_refused({"'b'", "in two files", "model-1.safetensors", "model-2.safetensors"});
}

TEST_F(WeightStoreTest, AnIndexAtOddsWithItsShardsIsRefused) {
  write("model-1.safetensors", bytes_file({"a"}));
  write("model-2.safetensors", bytes_file({"b"}));
  write_index(R"({"a":"model-2.safetensors","b":"model-1.safetensors"})");
  expect_refused({"index.json", "'a'", "model-2.safetensors", "does not hold it"});
  write_index(R"({"a":"model-1.safetensors","ghost":"model-1.safetensors"})");
  expect_refused({"index.json", "'ghost'", "does not hold it"});
}

TEST_F(WeightStoreTest, ATensorThatTheIndexForgotIsStillThere) {
  write("model-1.safetensors", bytes_file({"a", "extra"}));
  write_index(R"({"a":"model-1.safetensors"})");
  WeightStore store = WeightStore::open(folder_);
  store.find("a");
  EXPECT_EQ(store.unused(), std::vector<std::string>{"extra"});
}

TEST_F(WeightStoreTest, ShardNamesStayInTheFolder) {
  const auto outside = write("../outside.safetensors", bytes_file({"a"}));
  const std::string absolute = fmt::format(R"({{"a":"{}"}})", outside.string());
  for (const std::string_view map : {std::string_view(R"({"a":"../outside.safetensors"})"), std::string_view(absolute),
                                     std::string_view(R"({"a":"..\\outside.safetensors"})"),
                                     std::string_view(R"({"a":""})"), std::string_view(R"({"a":"model-1.bin"})")}) {
    write_index(map);
    expect_refused({"index.json", "'a'", "in the same folder"});
  }
  std::filesystem::remove(outside);
}

TEST_F(WeightStoreTest, MalformedIndexesAreRefused) {
  write_index("[]");
  expect_refused({"weight_map", "must be an object"});
  write_index(R"({"a":7})");
  expect_refused({"'weight_map.a'", "must be a string"});
  write("model.safetensors.index.json", "{}");
  expect_refused({"weight_map", "missing"});
  write("model.safetensors.index.json", "{\"weight_map\":");
  expect_refused({"index.json", "not valid JSON"});
}

}  // namespace
}  // namespace nostos
