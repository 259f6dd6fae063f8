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
    EXPECT_EQ(store.path(), folder_);
    EXPECT_EQ(store.where("a"), file.string());
    EXPECT_EQ(store.where("absent"), folder_.string());
    EXPECT_EQ(store.list().size(), 2u);
    EXPECT_EQ(store.list()[0].first, "a");
    std::filesystem::remove(file);
  }
}

TEST_F(WeightStoreTest, ShardsReadAsOne) {
  write("model-1.safetensors", bytes_file({"a", "c"}));
  write("model-2.safetensors", bytes_file({"b"}));
  write_index(R"({"a":"model-1.safetensors","c":"model-1.safetensors","b":"model-2.safetensors"})");
  WeightStore store = WeightStore::open(folder_);
  EXPECT_EQ(store.weights(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(store.files().size(), 2u);
  const std::optional<ConstView> b = store.find("b");
  ASSERT_TRUE(b.has_value());
  EXPECT_EQ(b->data<uint8_t>()[0], 'b');
  EXPECT_FALSE(store.find("absent").has_value());
  EXPECT_EQ(store.where("b"), (folder_ / "model-2.safetensors").string());
  store.will_need("a");
  store.release("b");
  EXPECT_EQ(b->data<uint8_t>()[0], 'b');
  WeightStore moved = std::move(store);
  EXPECT_EQ(b->data<uint8_t>()[0], 'b') << "a view survives the move of its store";
}

TEST_F(WeightStoreTest, NothingFoundListsWhatIsThere) {
  expect_refused({folder_.string(), "diffusion_pytorch_model.safetensors", "there is nothing"});
  write("diffusion_pytorch_model.bin", "x");
  write("config.json", "{}");
  expect_refused({"no weights", "there is config.json, diffusion_pytorch_model.bin"});
  for (int i = 10; i < 30; ++i) write(fmt::format("part-{}.gguf", i), "x");
  expect_refused({"part-19.gguf and 10 more"});
  expect_error([&] { WeightStore::open(folder_ / "absent"); }, ErrorKind::model,
               {"absent", "no weights", "No such file"});
}

/// Writes both kinds of weights of a stem, each with one tensor named after it.
class BothKinds : public WeightStoreTest {
 protected:
  void write_both(const std::string& stem) const {
    write(stem + ".safetensors", bytes_file({"single"}));
    write(stem + "-00001-of-00001.safetensors", bytes_file({"sharded"}));
    write(stem + ".safetensors.index.json",
          fmt::format(R"({{"weight_map":{{"sharded":"{}-00001-of-00001.safetensors"}}}})", stem));
  }
};

TEST_F(BothKinds, TheIndexGoesFirstAsInDiffusers) {
  write_both("diffusion_pytorch_model");
  const WeightStore store = WeightStore::open(folder_);
  EXPECT_NE(store.info("sharded"), nullptr);
  EXPECT_EQ(store.info("single"), nullptr);
  ASSERT_EQ(store.notes().size(), 1u);
  EXPECT_NE(store.notes()[0].find("several sets of weights, diffusion_pytorch_model.safetensors.index.json is taken"),
            std::string::npos)
      << store.notes()[0];
}

TEST_F(BothKinds, TheSingleFileGoesFirstAsInTransformers) {
  write_both("model");
  const WeightStore store = WeightStore::open(folder_);
  EXPECT_NE(store.info("single"), nullptr);
  EXPECT_EQ(store.info("sharded"), nullptr);
  EXPECT_EQ(store.notes().size(), 1u);
}

TEST_F(BothKinds, AStaleIndexGoesLast) {
  write_both("diffusion_pytorch_model");
  std::filesystem::remove(folder_ / "diffusion_pytorch_model-00001-of-00001.safetensors");
  const WeightStore store = WeightStore::open(folder_);
  EXPECT_NE(store.info("single"), nullptr);
  ASSERT_EQ(store.notes().size(), 2u);
  EXPECT_NE(store.notes()[0].find("index.json cannot be used"), std::string::npos) << store.notes()[0];
  EXPECT_NE(store.notes()[0].find("00001-of-00001.safetensors is missing"), std::string::npos) << store.notes()[0];
  std::filesystem::remove(folder_ / "diffusion_pytorch_model.safetensors");
  expect_refused({"00001-of-00001.safetensors", "is missing", "index.json"});
}

TEST_F(WeightStoreTest, TheOnlyVariantIsTaken) {
  write("diffusion_pytorch_model.fp16.safetensors", bytes_file({"a"}));
  const WeightStore store = WeightStore::open(folder_);
  EXPECT_EQ(store.variant(), "fp16");
  EXPECT_NE(store.info("a"), nullptr);
  ASSERT_EQ(store.notes().size(), 1u);
  EXPECT_NE(store.notes()[0].find("no plain weights, those of 'fp16' are taken"), std::string::npos);

  write("diffusion_pytorch_model.bf16.safetensors", bytes_file({"b"}));
  expect_refused({"variants bf16, fp16", "--variant"});
  EXPECT_NE(WeightStore::open(folder_, "bf16").info("b"), nullptr);
  EXPECT_TRUE(WeightStore::open(folder_, "bf16").notes().empty());
  expect_error([&] { WeightStore::open(folder_, "fp8"); }, ErrorKind::model, {"variant 'fp8'", "there are bf16, fp16"});
}

TEST_F(WeightStoreTest, PlainWeightsGoFirstUnlessAVariantIsAskedFor) {
  write("model.safetensors", bytes_file({"plain"}));
  write("model.fp16.safetensors", bytes_file({"half"}));
  EXPECT_NE(WeightStore::open(folder_).info("plain"), nullptr);
  EXPECT_TRUE(WeightStore::open(folder_).notes().empty());
  const WeightStore half = WeightStore::open(folder_, "fp16");
  EXPECT_EQ(half.variant(), "fp16");
  EXPECT_NE(half.info("half"), nullptr);
  const WeightStore other = WeightStore::open(folder_, "bf16");
  EXPECT_EQ(other.variant(), "");
  EXPECT_NE(other.info("plain"), nullptr);
  ASSERT_EQ(other.notes().size(), 1u);
  EXPECT_NE(other.notes()[0].find("no 'bf16' weights, those without a variant are taken"), std::string::npos);
}

TEST_F(WeightStoreTest, ShardsOfAVariantHaveTheNamesOfBothLibraries) {
  // diffusers and transformers write the first, older diffusers the second.
  for (const char* index : {"model.safetensors.index.fp16.json", "model.safetensors.fp16.index.json"}) {
    for (const char* shard : {"model.fp16-00001-of-00001.safetensors", "model-00001-of-00001.fp16.safetensors"}) {
      const auto file = write(shard, bytes_file({"a"}));
      const auto map = write(index, fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", shard));
      EXPECT_NE(WeightStore::open(folder_, "fp16").info("a"), nullptr) << index << ", " << shard;
      EXPECT_EQ(WeightStore::open(folder_).where("a"), file.string());
      std::filesystem::remove(file);
      std::filesystem::remove(map);
    }
  }
}

TEST_F(WeightStoreTest, OtherFilesAreNoWeights) {
  for (const char* name : {"model-00001-of-00002.safetensors", "model.safetensors.lock",
                           "model.safetensors.index.json.bak", "model..safetensors", "model.a.b.safetensors",
                           "model.json", "other.safetensors", "model.fp16.bin", "model.index.json"}) {
    write(name, bytes_file({"a"}));
  }
  expect_refused({"no weights", "other.safetensors"});
}

TEST_F(WeightStoreTest, AnIncompleteDownloadIsNamed) {
  const std::filesystem::path repository = folder_ / "models--a--b";
  const std::filesystem::path part = repository / "snapshots/rev/vae";
  std::filesystem::create_directories(part);
  std::filesystem::create_symlink("../../../blobs/gone", part / "diffusion_pytorch_model.safetensors");
  expect_error([&] { WeightStore::open(part); }, ErrorKind::model,
               {"diffusion_pytorch_model.safetensors", "is a link to '../../../blobs/gone', which does not exist",
                "is the download incomplete?"});
  write("models--a--b/blobs/gone.0123abcd.incomplete", "x");
  expect_error([&] { WeightStore::open(part); }, ErrorKind::model,
               {"the download is incomplete", "gone.0123abcd.incomplete"});
  std::filesystem::remove(part / "diffusion_pytorch_model.safetensors");
  expect_error([&] { WeightStore::open(part); }, ErrorKind::model, {"no weights", "gone.0123abcd.incomplete"});

  std::filesystem::create_symlink("../../../blobs/index", part / "model.safetensors.index.json");
  expect_error([&] { WeightStore::open(part); }, ErrorKind::model,
               {"index.json", "is a link to '../../../blobs/index'"});
}

TEST_F(WeightStoreTest, ADanglingShardIsNamed) {
  write_index(R"({"a":"model-1.safetensors"})");
  std::filesystem::create_symlink("blobs/gone", folder_ / "model-1.safetensors");
  expect_refused(
      {"model-1.safetensors", "named by", "index.json", "is a link to 'blobs/gone'", "is the download incomplete?"});
}

TEST_F(WeightStoreTest, APartWhoseFolderLeadsToNothingIsNamed) {
  std::filesystem::create_directory_symlink("elsewhere", folder_ / "vae");
  expect_error([&] { WeightStore::open(folder_ / "vae"); }, ErrorKind::model,
               {"vae", "it is a link to 'elsewhere', which does not exist"});
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

TEST_F(WeightStoreTest, TheIndexSaysWhichShardCounts) {
  write("model-1.safetensors", bytes_file({"a", "b"}));
  write("model-2.safetensors", bytes_file({"b", "c"}));
  for (const char* shard : {"model-1.safetensors", "model-2.safetensors"}) {
    write_index(fmt::format(R"({{"a":"model-1.safetensors","b":"{}","c":"model-2.safetensors"}})", shard));
    EXPECT_EQ(WeightStore::open(folder_).where("b"), (folder_ / shard).string());
  }
}

TEST_F(WeightStoreTest, AnIndexAtOddsWithItsShardsIsRefused) {
  write("model-1.safetensors", bytes_file({"a"}));
  write("model-2.safetensors", bytes_file({"b"}));
  write_index(R"({"a":"model-2.safetensors","b":"model-1.safetensors"})");
  expect_refused({"index.json", "'a'", "model-2.safetensors", "does not hold it"});
  write_index(R"({"a":"model-1.safetensors","ghost":"model-1.safetensors"})");
  expect_refused({"index.json", "'ghost'", "does not hold it"});
}

TEST_F(WeightStoreTest, WhatTheIndexDoesNotNameIsIgnored) {
  write("model-1.safetensors", bytes_file({"a", "extra"}));
  write_index(R"({"a":"model-1.safetensors"})");
  WeightStore store = WeightStore::open(folder_);
  EXPECT_FALSE(store.find("extra").has_value());
  EXPECT_EQ(store.weights(), std::vector<std::string>{"a"});
}

TEST_F(WeightStoreTest, EachPlaceIsOpenedOnce) {
  WeightStores stores;
  expect_error([&] { stores.open(folder_); }, ErrorKind::model, {"there is nothing"});
  const auto file = write("model.safetensors", bytes_file({"a"}));
  const std::shared_ptr<const WeightStore> plain = stores.open(folder_), whole = stores.open(file);
  write("model.fp16.safetensors", bytes_file({"half"}));
  EXPECT_NE(stores.open(folder_, "fp16")->info("half"), nullptr);
  std::filesystem::remove_all(folder_);
  EXPECT_EQ(stores.open(folder_), plain);
  EXPECT_EQ(stores.open(folder_, "fp16")->variant(), "fp16");
  EXPECT_EQ(plain->find("a")->data<uint8_t>()[0], 'a');
  EXPECT_EQ(whole->path(), file);

  const auto other = write("other.safetensors", bytes_file({"b"}));
  EXPECT_EQ(stores.open(other), stores.open(other, "fp16")) << "a file has no variants";
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
