// Tests drawings whose weights are streamed from host memory: the same pictures, no more than the limit allows, and
// clear errors.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/log.h"
#include "cuda/drawing.h"
#include "device/cuda/runtime.h"
#include "io/safetensors.h"
#include "ops/linear_update.h"
#include "parallel/self_communicator.h"
#include "pipeline/adapters.h"
#include "pipeline/tiny_control.h"

namespace nostos::test {
namespace {

constexpr Device kGpu{DeviceKind::cuda, 0};

/// What is drawn with.
struct Model {
  std::string name = "mini";
  bool synthetic = false;
  std::filesystem::path controlnet{};
  bool in_int8 = false;  ///< products of the transformer and of the text encoder
};

/// A model in a memory mode on one rank, whose parts can be looked at.
class Drawer {
 public:
  explicit Drawer(const MemoryOptions& memory, const Model& model = {})
      : has_control_(!model.controlnet.empty()), parts_(ctx_, options(model), memory), rank_({ctx_, parts_}, nullptr) {
    parts_.load_ahead(ctx_, true);
  }

  Generation draw(const GenerationRequest& request, const Progress& progress = {}, KeptCaptions* captions = nullptr) {
    SelfCommunicator world;
    const ResolvedRequest resolved = resolve(request, parts_.shape().limits);
    rank_.process.captions = captions;
    return std::move(nostos::draw(rank_, world, {{&resolved, 1}, {&progress, 1}}).made.front());
  }
  /// \return whether a drawing with `scratch_bytes` has room, and without any streaming unless it may stream.
  bool has_room(size_t scratch_bytes, bool may_stream = true) {
    try {
      parts_.make_room(ctx_, scratch_bytes, has_control_, true);
      return may_stream || !parts_.streams();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::out_of_memory) << error.what();
      return false;
    }
  }
  const ModelParts& parts() const { return parts_; }
  Context& context() { return ctx_; }

 private:
  static FamilyOptions options(const Model& model) {
    FamilyOptions made{.files = model_dir(model.name), .dtype = DType::bf16, .synthetic = model.synthetic};
    made.files.controlnet = model.controlnet;
    made.rounds_products = made.rounds_text = model.in_int8;
    return made;
  }

  bool has_control_;
  Context ctx_{kGpu, 8};
  ModelParts parts_;
  Rank rank_;
};

/// Steps without guidance, then steps with.
GenerationRequest half_guided(int64_t height, int64_t width) {
  GenerationRequest made = beach(height, width, 4, 4);
  made.cfg_truncation = 0.6;
  return made;
}

/// \return the lowest limit under which the embedded model can draw with `scratch_bytes`: everything is streamed, or if
/// it may not stream, nothing is.
size_t lowest_limit(size_t scratch_bytes, bool may_stream = true, const Model& model = {}) {
  size_t refused = 0, enough = size_t{16} << 30;
  while (enough - refused > 1) {
    const size_t middle = refused + (enough - refused) / 2;
    Drawer drawer({.limit_bytes = middle}, model);
    (drawer.has_room(scratch_bytes, may_stream) ? enough : refused) = middle;
  }
  return enough;
}

/// Without the lines that say what was planned.
class CudaOffload : public testing::Test {
 protected:
  CudaOffload() { set_log_level(LogLevel::warning); }
  ~CudaOffload() override { set_log_level(LogLevel::info); }
};

TEST_F(CudaOffload, DrawsTheSameUnderEveryLimit) {
  Drawer resident({.mode = MemoryMode::resident});
  GenerationRequest request = half_guided(256, 192);
  request.num_outputs = 2;
  const Generation wanted = resident.draw(request);
  EXPECT_EQ(wanted.report.streamed_bytes, 0u);
  const size_t lowest = lowest_limit(wanted.report.arena_bytes), whole = lowest_limit(wanted.report.arena_bytes, false);
  size_t last_streamed = wanted.report.weight_bytes;
  for (const size_t quarters : {0, 1, 2, 3, 4}) {
    Drawer limited({.limit_bytes = lowest + (whole - lowest) * quarters / 4});
    for (const char* what : {"first", "again"}) {
      const Generation drawn = limited.draw(request);
      expect_same(wanted, drawn, fmt::format("{} of 4 quarters, {}", quarters, what));
      EXPECT_EQ(drawn.report.streamed_bytes > 0, quarters < 4) << quarters;
      EXPECT_LE(drawn.report.streamed_bytes, last_streamed) << quarters;
      last_streamed = drawn.report.streamed_bytes;
    }
  }
  EXPECT_FALSE(Drawer({.limit_bytes = lowest - 1}).has_room(wanted.report.arena_bytes));
  EXPECT_FALSE(Drawer({.mode = MemoryMode::resident, .limit_bytes = lowest}).has_room(wanted.report.arena_bytes));
}

// Rows of the table are read where they are, by recorded work too.
TEST_F(CudaOffload, TheTableLeavesBeforeAnyBlock) {
  Drawer resident({.mode = MemoryMode::resident});
  const GenerationRequest request = half_guided(256, 192);
  const Generation wanted = resident.draw(request);
  const size_t table = resident.parts().family().parts().front()->sizes().table;
  ASSERT_GT(table, 0u);
  Drawer limited({.limit_bytes = lowest_limit(wanted.report.arena_bytes, false) - 1});
  for (const char* what : {"first", "recorded on the way", "recorded before"}) {
    const Generation drawn = limited.draw(request);
    expect_same(wanted, drawn, what);
    EXPECT_EQ(drawn.report.streamed_bytes, table) << what;
    EXPECT_EQ(drawn.report.weight_bytes + table, wanted.report.weight_bytes) << what;
  }
  EXPECT_FALSE(limited.parts().streams_text());
}

// Several hundred allocations of their own would take up to 2 MiB each beside their bytes.
TEST_F(CudaOffload, WeightsOfAPartTakeOneAllocation) {
  for (const bool in_int8 : {false, true}) {
    const Drawer resident({.mode = MemoryMode::resident}, {.in_int8 = in_int8});
    for (const ModelPart* part : resident.parts().family().parts()) {
      if (!part->can_stream()) continue;
      const WeightStorage& loaded = *part->storage();
      EXPECT_TRUE(loaded.tensors.empty()) << part->name();
      EXPECT_LE(loaded.bytes, loaded.reserved.size_bytes()) << part->name();
      EXPECT_EQ(loaded.reserved.size_bytes(), resident_bytes(part->sizes(), {})) << part->name();
    }
  }
}

TEST_F(CudaOffload, AControlNetworkIsStreamedBesideTheTransformer) {
  for (const tiny::ControlKind kind : {tiny::ControlKind::union_2_0, tiny::ControlKind::union_2_1}) {
    const tiny::ControlFile network(kind, model_dir("mini"));
    const Model model{.controlnet = network.path()};
    GenerationRequest request = half_guided(256, 192);
    const std::vector<uint8_t> rgb(size_t{256} * 192 * 3, 90);
    request.control = Control{
        .image = ReferenceImage{.size = {256, 192}, .image = std::make_shared<const Image>(Image{256, 192, rgb})},
        .end = 0.8};
    const Generation wanted = Drawer({.mode = MemoryMode::resident}, model).draw(request);
    Drawer limited({.limit_bytes = lowest_limit(wanted.report.arena_bytes, true, model)}, model);
    for (const char* what : {"first", "again"}) {
      const Generation drawn = limited.draw(request);
      expect_same(wanted, drawn, what);
      EXPECT_GT(drawn.report.streamed_bytes, 0u);
    }
  }
}

TEST_F(CudaOffload, WeightsOf8BitsAreStreamed) {
  const Model model{.in_int8 = true};
  const GenerationRequest request = half_guided(256, 192);
  const Generation plain = Drawer({.mode = MemoryMode::resident}).draw(request);
  const Generation wanted = Drawer({.mode = MemoryMode::resident}, model).draw(request);
  EXPECT_NE(plain.pictures[0].image, wanted.pictures[0].image);
  EXPECT_LT(wanted.report.weight_bytes, plain.report.weight_bytes);
  Drawer limited({.limit_bytes = lowest_limit(wanted.report.arena_bytes, true, model)}, model);
  for (const char* what : {"first", "again"}) {
    const Generation drawn = limited.draw(request);
    expect_same(wanted, drawn, what);
    EXPECT_GT(drawn.report.streamed_bytes, 0u);
  }
}

TEST_F(CudaOffload, AWarmDrawingWaitsOnceAndAllocatesNothing) {
  const size_t scratch = Drawer({.mode = MemoryMode::resident}).draw(half_guided(256, 192)).report.arena_bytes;
  Drawer drawer({.limit_bytes = lowest_limit(scratch)});
  drawer.draw(half_guided(256, 192));
  const int64_t waits = drawer.context().host_waits(), allocations = cuda::allocations();
  drawer.draw(half_guided(256, 192));
  EXPECT_EQ(drawer.context().host_waits(), waits + 1);
  EXPECT_EQ(cuda::allocations(), allocations);
}

// Blocks of the text encoder do not visit the GPU then.
TEST_F(CudaOffload, KeptCaptionsDrawTheSame) {
  const GenerationRequest request = half_guided(256, 192);
  const Generation wanted = Drawer({.mode = MemoryMode::resident}).draw(request);
  const MemoryOptions streams{.limit_bytes = lowest_limit(wanted.report.arena_bytes)};
  for (const MemoryOptions& memory : {streams, MemoryOptions{.mode = MemoryMode::offload, .one_drawing = true}}) {
    Drawer drawer(memory);
    KeptCaptions captions(size_t{1} << 20);
    for (const int64_t kept : {0, 2, 2}) {
      const Generation drawn = drawer.draw(request, {}, &captions);
      EXPECT_EQ(drawn.report.kept_captions, kept);
      expect_same(wanted, drawn, fmt::format("{} kept", kept));
    }
  }
}

// The larger drawing leaves less room for weights, which are loaded anew in another way.
TEST_F(CudaOffload, LargerDrawingsMakeRoomForThemselves) {
  Drawer resident({.mode = MemoryMode::resident});
  const Generation small = resident.draw(half_guided(128, 128)), large = resident.draw(half_guided(512, 384));
  Drawer limited({.limit_bytes = lowest_limit(large.report.arena_bytes)});
  const Generation before = limited.draw(half_guided(128, 128));
  expect_same(small, before, "before");
  const Generation drawn = limited.draw(half_guided(512, 384));
  expect_same(large, drawn, "larger");
  EXPECT_GT(drawn.report.streamed_bytes, before.report.streamed_bytes);
  expect_same(small, limited.draw(half_guided(128, 128)), "after");
}

TEST_F(CudaOffload, PartsThatTakeTurnsDrawTheSame) {
  const Generation wanted = Drawer({.mode = MemoryMode::resident}).draw(half_guided(256, 192));
  const MemoryOptions little_room{.one_drawing = true, .limit_bytes = size_t{4} << 30};
  for (const MemoryOptions& memory : {little_room, MemoryOptions{.mode = MemoryMode::offload, .one_drawing = true}}) {
    Drawer once(memory);
    EXPECT_TRUE(once.parts().one_at_a_time());
    expect_same(wanted, once.draw(half_guided(256, 192)), "one at a time");
  }
  EXPECT_FALSE(Drawer({.one_drawing = true}).parts().one_at_a_time()) << "there is room for all";
}

/// \return a LoRA of this rank of all matrices of the embedded model's layers.
AdapterUse large_lora(const ModelParts& parts, int64_t rank) {
  std::map<std::string, Tensor> tensors;
  for (const ModelPart* part : parts.family().parts()) {
    if (part->name() != "transformer") continue;
    for (const auto& [name, shape] : part->lister()().shapes) {
      if (!name.starts_with("layers.") || !name.ends_with(".weight") || shape.rank() != 2) continue;
      const std::string module = "transformer." + name.substr(0, name.size() - 7);
      const auto add = [&](const std::string& factor, int64_t rows, int64_t columns) {
        const std::string key = fmt::format("{}.{}.weight", module, factor);
        Tensor& tensor = tensors.emplace(key, Tensor(Device{}, DType::f32, {rows, columns})).first->second;
        for (int64_t i = 0; i < rows * columns; ++i)
          tensor.data<float>()[i] = 0.001f * static_cast<float>((i * 7 + 3) % 11 - 5);
      };
      const int64_t most = std::min({rank, shape[0], shape[1]});
      add("lora_A", most, shape[1]);
      add("lora_B", shape[0], most);
    }
  }
  const std::filesystem::path file =
      std::filesystem::path(testing::TempDir()) / fmt::format("large_{}_{}.safetensors", rank, getpid());
  std::vector<NamedTensor> named;
  for (const auto& [name, tensor] : tensors) named.push_back({name, tensor.view()});
  write_safetensors(file, named);
  return {.name = "large", .file = file.string(), .sha256 = file_sha256(file), .scale = 1};
}

// Weights that fill what the limit leaves are placed anew where adapters come beside them.
TEST_F(CudaOffload, AdaptersHaveTheirRoomWithinTheLimit) {
  Drawer resident({.mode = MemoryMode::resident});
  GenerationRequest plain = half_guided(256, 192), adapted = plain;
  adapted.adapters = {large_lora(resident.parts(), 32)};
  const Generation wanted_plain = resident.draw(plain), wanted = resident.draw(adapted);
  EXPECT_GT(wanted.report.adapter_bytes, 0u);
  const size_t scratch = std::max(wanted.report.arena_bytes, wanted_plain.report.arena_bytes);
  // So that weights, not what products with adapters take, are short of room.
  Drawer brim({.limit_bytes = lowest_limit(scratch, false) + size_t{ops::kUpdateScratchBytes}});
  expect_same(wanted_plain, brim.draw(plain), "at the brim");
  EXPECT_FALSE(brim.parts().streams());
  for (const char* what : {"first", "again"}) {
    const Generation drawn = brim.draw(adapted);
    expect_same(wanted, drawn, what);
    EXPECT_EQ(drawn.report.adapter_bytes, wanted.report.adapter_bytes) << what;
    EXPECT_GT(drawn.report.streamed_bytes, 0u) << what;
    constexpr size_t kRounding = size_t{1} << 20;
    EXPECT_LE(drawn.report.weight_bytes + drawn.report.adapter_bytes, wanted.report.weight_bytes + kRounding) << what;
    // The room stays theirs: nothing is loaded anew for a request without them.
    const Generation without = brim.draw(plain);
    expect_same(wanted_plain, without, what);
    EXPECT_EQ(without.report.streamed_bytes, drawn.report.streamed_bytes) << what;
    EXPECT_TRUE(std::ranges::none_of(without.report.stages, [](const auto& stage) { return stage.name == "load"; }));
  }
  std::filesystem::remove(adapted.adapters[0].file);
}

TEST_F(CudaOffload, AdaptersThatFitNowhereAreRefusedWithWhatTheyTake) {
  Drawer resident({.mode = MemoryMode::resident});
  const GenerationRequest plain = half_guided(256, 192);
  const Generation wanted = resident.draw(plain);
  GenerationRequest adapted = plain;
  adapted.adapters = {large_lora(resident.parts(), 128)};
  for (const bool may_stream : {true, false}) {
    const size_t limit = lowest_limit(wanted.report.arena_bytes, may_stream);
    Drawer tight({.mode = may_stream ? MemoryMode::automatic : MemoryMode::resident, .limit_bytes = limit});
    for (const char* what : {"first", "again"}) {
      try {
        tight.draw(adapted);
        FAIL() << "drawn beyond the limit, " << what;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::out_of_memory) << error.what();
        EXPECT_NE(std::string(error.what()).find("the adapters 0."), std::string::npos) << error.what();
      }
      expect_same(wanted, tight.draw(plain), what);
    }
  }
  std::filesystem::remove(adapted.adapters[0].file);
}

TEST_F(CudaOffload, ADrawingThatWasGivenUpLeavesNoTrace) {
  Drawer resident({.mode = MemoryMode::resident});
  const Generation wanted = resident.draw(half_guided(256, 192));
  Drawer drawer({.limit_bytes = lowest_limit(wanted.report.arena_bytes)});
  for (const int64_t last : {1, 3}) {
    std::atomic<bool> cancel{false};
    Progress progress;
    progress.cancel = &cancel;
    progress.on_step = [&](int64_t step, int64_t, double) { cancel = cancel || step == last; };
    try {
      drawer.draw(half_guided(256, 192), progress);
      FAIL() << "not cancelled after step " << last;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
    expect_same(wanted, drawer.draw(half_guided(256, 192)), "after a drawing that was given up");
  }
}

TEST(CudaFullSize, OffloadDrawsTheSame) {
  const GenerationRequest request = beach(1024, 1024, 2, 0);
  const Generation wanted = Drawer({.mode = MemoryMode::resident}, {"z-image-turbo", true}).draw(request);
  const Generation drawn = Drawer({.mode = MemoryMode::offload}, {"z-image-turbo", true}).draw(request);
  expect_same(wanted, drawn, "offload");
  EXPECT_LE(drawn.report.weight_bytes + drawn.report.arena_bytes, MemoryOptions::kOffloadLimitBytes);
  EXPECT_GT(drawn.report.streamed_bytes, 0u);
}

}  // namespace
}  // namespace nostos::test
