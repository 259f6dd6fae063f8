// Tests that checkpoints that do not fit their config are refused by name.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"
#include "io/test_files.h"
#include "models/qwen3/weights.h"
#include "models/synthetic_source.h"
#include "models/weight_builder.h"
#include "ops/linear.h"
#include "ops/support.h"

namespace nostos::test {
namespace {

/// A tiny text encoder whose tensors a test may spoil.
class WeightsTest : public testing::Test {
 protected:
  WeightsTest() {
    config_.vocabulary = 11;
    config_.hidden = 8;
    config_.ffn = 12;
    config_.layers = 2;
    config_.feature_layers = {1};
    config_.heads = 2;
    config_.kv_heads = 1;
    config_.head_dim = 4;
    Context ctx({}, 1);
    const auto source = std::make_shared<ListingSource>();
    WeightBuilder builder(ctx, source, DType::f32);
    qwen3::build_weights(config_, builder);
    for (const auto& [name, shape] : source->shapes()) {
      Tensor tensor({}, DType::f32, shape);
      for (int64_t i = 0; i < shape.elements(); ++i) tensor.data<float>()[i] = static_cast<float>(i % 7);
      tensors_.insert_or_assign(name, std::move(tensor));
    }
    folder_ = std::filesystem::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
  }
  ~WeightsTest() override { std::filesystem::remove_all(folder_); }

  qwen3::Weights load() {
    std::vector<NamedTensor> named;
    for (const auto& [name, tensor] : tensors_) named.push_back({name, tensor.view()});
    write_safetensors(folder_ / "model.safetensors", named);
    Context ctx({}, 1);
    const std::shared_ptr<const WeightStore> store = WeightStores().open(folder_);
    const auto walk = [&](StoreSource::Mode mode) {
      WeightBuilder builder(ctx, std::make_shared<StoreSource>(store, CheckpointNames{}, mode), DType::f32);
      return qwen3::build_weights(config_, builder);
    };
    walk(StoreSource::Mode::check_only);
    return walk(StoreSource::Mode::load);
  }

  std::string failure() {
    try {
      load();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      return error.what();
    }
    ADD_FAILURE() << "the weights were accepted";
    return "";
  }

  qwen3::Config config_;
  std::map<std::string, Tensor> tensors_;
  std::filesystem::path folder_;
};

TEST_F(WeightsTest, CompleteLoads) {
  const qwen3::Weights weights = load();
  ASSERT_EQ(weights.layers.size(), 1u);
  EXPECT_EQ(weights.embedding.rows, 11);
  EXPECT_EQ(weights.embedding.columns, 8);
  EXPECT_EQ(reinterpret_cast<const float*>(weights.embedding.data)[5], 5.f);
  EXPECT_GT(weights.storage.bytes, 0u);
}

TEST_F(WeightsTest, MissingAreAllNamed) {
  tensors_.erase("layers.0.self_attn.q_norm.weight");
  tensors_.erase("layers.1.mlp.up_proj.weight");  // of the layer that never runs: the layout is checked all the same
  const std::string message = failure();
  EXPECT_NE(message.find("layers.0.self_attn.q_norm.weight is missing"), std::string::npos) << message;
  EXPECT_NE(message.find("layers.1.mlp.up_proj.weight is missing"), std::string::npos) << message;
}

TEST_F(WeightsTest, WrongShapeSaysBothShapes) {
  tensors_.insert_or_assign("layers.0.mlp.down_proj.weight", Tensor({}, DType::f32, {12, 8}));
  const std::string message = failure();
  EXPECT_NE(message.find("layers.0.mlp.down_proj.weight"), std::string::npos) << message;
  EXPECT_NE(message.find("[12, 8]"), std::string::npos) << message;
  EXPECT_NE(message.find("[8, 12]"), std::string::npos) << message;
}

// As some programs write them.
TEST_F(WeightsTest, AxesOf1BeforeTheRowsAreLeftOut) {
  const qwen3::Weights plain = load();
  const auto with_axes = [](const Tensor& given, std::initializer_list<int64_t> before) {
    Shape shape(before);
    for (int axis = 0; axis < given.shape().rank(); ++axis) shape.push_back(given.shape()[axis]);
    Tensor made({}, given.dtype(), shape);
    std::memcpy(made.view().bytes(), given.view().bytes(), given.size_in_bytes());
    return made;
  };
  for (auto& [name, tensor] : tensors_) tensor = with_axes(tensor, {1});
  const qwen3::Weights made = load();
  Context ctx({}, 1);
  const Tensor x = random_tensor(DType::f32, {3, config_.hidden}, 1);
  Tensor wanted({}, DType::f32, {3, config_.ffn * 2}), got({}, DType::f32, wanted.shape());
  ops::linear(ctx, x, plain.layers[0].feed_forward.gate_up.gate_up, wanted);
  ops::linear(ctx, x, made.layers[0].feed_forward.gate_up.gate_up, got);
  EXPECT_TRUE(same_bits(wanted, got));
}

TEST_F(WeightsTest, RowsThatAreNoRowsAreAWrongShape) {
  for (const Shape& wrong : {Shape{2, 4, 12}, {1, 2, 4, 12}, {8, 12, 1, 2}, {1, 1, 12, 8}}) {
    Tensor tensor({}, DType::f32, wrong);
    std::memset(tensor.view().bytes(), 0, tensor.size_in_bytes());
    tensors_.insert_or_assign("layers.0.mlp.down_proj.weight", std::move(tensor));
    const std::string message = failure();
    EXPECT_NE(message.find("layers.0.mlp.down_proj.weight"), std::string::npos) << message;
    EXPECT_NE(message.find(to_string(wrong) + ", the config wants the shape [8, 12]"), std::string::npos) << message;
  }
}

TEST_F(WeightsTest, NoRowsAreAWrongShape) {
  tensors_.insert_or_assign("layers.0.mlp.down_proj.weight", Tensor({}, DType::f32, {0, 12}));
  EXPECT_NE(failure().find("[0, 12]"), std::string::npos);
}

TEST_F(WeightsTest, WrongDtypeIsNamed) {
  tensors_.insert_or_assign("norm.weight", Tensor({}, DType::i64, {8}));
  EXPECT_NE(failure().find("tensor 'norm.weight' is I64"), std::string::npos);
}

TEST_F(WeightsTest, UnusedAreIgnored) {
  tensors_.insert_or_assign("lm_head.weight", Tensor({}, DType::f32, {11, 8}));
  EXPECT_NO_THROW(load());
}

/// A file of one tensor, 32 MiB of float32 numbers that count from 0 on, and what of it is in memory.
class LargeFile : public FolderTest {
 protected:
  static constexpr size_t kBytes = size_t{32} << 20;
  static constexpr int64_t kRows = 1024;
  const Shape shape_{kRows, static_cast<int64_t>(kBytes / 4 / kRows)};

  /// \param shift of the data from what float32 is aligned for
  std::shared_ptr<const WeightStore> opened(size_t shift) const {
    std::string header =
        fmt::format(R"({{"w":{{"dtype":"F32","shape":[{},{}],"data_offsets":[0,{}]}}}})", kRows, shape_[1], kBytes);
    header.resize((header.size() + 7) / 8 * 8 + shift, ' ');
    std::string data(kBytes, '\0');
    for (size_t i = 0; i < kBytes / 4; ++i) {
      const auto number = static_cast<float>(i);
      std::memcpy(data.data() + 4 * i, &number, 4);
    }
    return WeightStores().open(write("w.safetensors", safetensors_bytes(header, data)));
  }
  static bool counts_up(ConstView view) {
    const auto* numbers = view.data<float>();
    for (int64_t i = 0; i < view.elements(); ++i)
      if (numbers[i] != static_cast<float>(i)) return false;
    return true;
  }
  /// \return bytes of this process in memory: of files (word 2 of /proc/self/statm) or of all else.
  static size_t resident(bool of_files) {
    std::ifstream statm("/proc/self/statm");
    size_t all = 0, resident = 0, shared = 0;
    statm >> all >> resident >> shared;
    return (of_files ? shared : resident - shared) * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  }
};

TEST_F(LargeFile, PagesAreGivenBackWhenItsSourceEnds) {
  const std::shared_ptr<const WeightStore> store = opened(0);
  auto first = std::make_unique<StoreSource>(store, CheckpointNames{}, StoreSource::Mode::load);
  const size_t before = resident(true);
  EXPECT_TRUE(counts_up(first->tensor("w", shape_)));
  EXPECT_GE(resident(true), before + kBytes / 2);
  first.reset();
  EXPECT_LE(resident(true), before + kBytes / 8) << "the store is open still";
  StoreSource second(store, CheckpointNames{}, StoreSource::Mode::load);
  EXPECT_TRUE(counts_up(second.tensor("w", shape_)));
}

TEST_F(LargeFile, UnalignedTensorsAreCopiedWhenTheyAreAskedFor) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the address sanitizer keeps memory that is freed";
#endif
  StoreSource unaligned(opened(1), CheckpointNames{}, StoreSource::Mode::load);
  const size_t before = resident(false);
  const ConstView view = unaligned.tensor("w", shape_);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(view.bytes()) % sizeof(float), 0u);
  EXPECT_TRUE(counts_up(view));
  EXPECT_GE(resident(false), before + kBytes / 2) << "a copy is in memory from now on alone";
  unaligned.release("w");
  EXPECT_LE(resident(false), before + kBytes / 8);
  EXPECT_TRUE(counts_up(unaligned.tensor("w", shape_))) << "as often as it is asked for";
  unaligned.release("w");
  const std::vector<StoredMatrix> matrix = unaligned.matrix("w", shape_);
  ASSERT_EQ(matrix.size(), 1u);
  EXPECT_TRUE(counts_up({matrix.front().data, DType::f32, shape_}));
}

}  // namespace
}  // namespace nostos::test
