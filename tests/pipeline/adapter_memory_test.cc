// Tests what adapters cost: memory that is known before they are made, files that are read once, and prompts that are
// not encoded again for changes that they do not depend on.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "adapters/adapter.h"
#include "base/error.h"
#include "base/log.h"
#include "families/flux2_klein/model.h"
#include "families/registry.h"
#include "families/zimage/model.h"
#include "io/safetensors.h"
#include "ops/linear_update.h"
#include "pipeline/adapter_drawings.h"

namespace nostos {
namespace {

/// Counts the lines of the log that have a text, as long as it lives.
class LogLines {
 public:
  explicit LogLines(std::string text) : text_(std::move(text)) {
    set_log_level(LogLevel::debug);
    set_log_writer([this](LogLevel, std::string_view line) {
      if (line.find(text_) != std::string_view::npos) ++count_;
    });
  }
  ~LogLines() {
    set_log_writer({});
    set_log_level(LogLevel::info);
  }
  int count() const { return count_; }

 private:
  std::string text_;
  std::atomic<int> count_ = 0;
};

/// \return a LoRA of rank 2 of Z-Image's modules, under the name of a file of its own.
AdapterUse lora_of(const std::string& name, const std::vector<std::string>& modules) {
  Context ctx;
  const std::unique_ptr<Family> family = open_family(ctx, {.files = kZImage.folder});
  std::map<std::string, Tensor> tensors;
  for (const ModelPart* part : family->parts()) {
    if (!part->can_stream()) continue;
    const AdapterPart listed = part->lister()();
    for (const std::string& module : modules) {
      const auto found = listed.shapes.find(module + ".weight");
      if (found == listed.shapes.end()) continue;
      const auto add = [&](const std::string& factor, int64_t rows, int64_t columns) {
        const std::string key = fmt::format("{}.{}.{}.weight", listed.name, module, factor);
        Tensor& tensor = tensors.emplace(key, Tensor(Device{}, DType::f32, {rows, columns})).first->second;
        for (int64_t i = 0; i < rows * columns; ++i)
          tensor.data<float>()[i] = 0.02f * static_cast<float>((i * 7 + 3) % 11 - 5);
      };
      add("lora_A", 2, found->second[1]);
      add("lora_B", found->second[0], 2);
    }
  }
  const Path file = Path(testing::TempDir()) / fmt::format("{}_{}.safetensors", name, getpid());
  std::vector<NamedTensor> named;
  for (const auto& [key, tensor] : tensors) named.push_back({key, tensor.view()});
  write_safetensors(file, named);
  return {.name = name, .file = file.string(), .sha256 = file_sha256(file), .scale = 1};
}

/// \return bytes of the numbers that all updates of a loaded network hold, however they are packed.
size_t bytes_of_updates(const WeightTable& table) {
  const auto bytes = [](const Linear& weight) {
    return weight.packed ? static_cast<size_t>(weight.out * weight.in) * size_bytes(weight.input) : 0;
  };
  std::set<const LinearUpdate*> seen;
  size_t all = 0;
  for (const auto& [name, place] : table) {
    const LinearUpdate* update = place.weight->update.get();
    if (update == nullptr || !seen.insert(update).second) continue;
    all += bytes(update->low_rank.down) + bytes(update->low_rank.up) + bytes(update->dense) +
           update->column_scale.size_in_bytes();
    for (const KroneckerTerm& term : update->kronecker) all += term.left.size_in_bytes() + bytes(term.right);
  }
  return all;
}

template <class Family>
void expect_known_sizes(const Model& model) {
  for (const auto& entry : std::filesystem::directory_iterator(kData / "adapters" / model.name)) {
    const std::string name = entry.path().stem().string();
    if (name == "expected") continue;
    Context ctx(drawing_device(), 2);
    Family family(ctx, {.files = model.folder});
    AdapterFiles files(family);
    std::vector<ScaledAdapter> adapters;
    try {
      adapters.push_back({files.read(use_of(model, name)).adapter, 0.7});
    } catch (const Error&) {
      continue;  // of another model, or of a kind that is refused
    }
    // Twice: some then cannot stand beside each other.
    for (const char* how : {"once", "twice"}) {
      size_t planned = 0, taken = 0, made = 0;
      for (ModelPart* part : family.parts()) {
        if (!part->can_stream()) continue;
        planned += part->plan_adapters(ctx, adapters);
        EXPECT_EQ(part->adapter_bytes(), 0u) << "nothing is made yet";
        part->load(ctx, {});
        part->adapt(ctx, adapters);
        taken += part->adapter_bytes();
      }
      made += bytes_of_updates(weight_table(family.transformer().weights()));
      made += bytes_of_updates(weight_table(family.encoder().weights()));
      EXPECT_EQ(planned, made) << model.name << " " << name << " " << how;
      EXPECT_GT(planned, 0u) << name;
      EXPECT_GE(taken, made) << name;
      if (ctx.device().kind == DeviceKind::cuda) {
        EXPECT_EQ(taken, made) << name;
      }
      for (ModelPart* part : family.parts()) {
        if (!part->can_stream()) continue;
        part->adapt(ctx, {});
        EXPECT_EQ(part->adapter_bytes(), 0u) << name;
      }
      adapters.push_back(adapters.front());
    }
  }
}

TEST(AdapterMemory, IsKnownBeforeAnythingIsMade) {
  expect_known_sizes<zimage::Model>(kZImage);
  expect_known_sizes<flux2_klein::Model>(kFlux2);
}

TEST(AdapterMemory, IsReported) {
  Engine engine(options(kZImage.folder));
  EXPECT_EQ(engine.generate(request({})).report.adapter_bytes, 0u);
  const RunReport report = engine.generate(request({use_of(kZImage, "ai_toolkit")})).report;
  EXPECT_GT(report.adapter_bytes, 0u);
  EXPECT_EQ(engine.generate(request({})).report.adapter_bytes, 0u) << "it is given back";
}

TEST(AdapterMemory, UpdatesOfPartsThatTakeTurnsAreMadeOnce) {
  if (drawing_device().kind != DeviceKind::cpu) return;
  Context ctx;
  zimage::Model model(ctx, {.files = kZImage.folder});
  AdapterFiles files(model);
  const std::vector<ScaledAdapter> adapters{{files.read(use_of(kZImage, "dora")).adapter, 1}};
  ModelPart& part = *model.parts()[1];
  const auto updates = [&] {
    std::map<std::string, std::shared_ptr<const LinearUpdate>> made;
    for (const auto& [name, place] : weight_table(model.transformer().weights())) made[name] = place.weight->update;
    return made;
  };
  part.adapt(ctx, adapters);
  part.load(ctx, {});
  const auto first = updates();
  EXPECT_TRUE(std::ranges::any_of(first, [](const auto& entry) { return entry.second != nullptr; }));
  part.release();
  EXPECT_GT(part.adapter_bytes(), 0u);
  part.load(ctx, {});
  EXPECT_EQ(updates(), first) << "the same objects";
  part.release();
  part.adapt(ctx, {});
  EXPECT_EQ(part.adapter_bytes(), 0u);
  part.load(ctx, {});
  for (const auto& [name, update] : updates()) EXPECT_EQ(update, nullptr) << name;
}

TEST(AdapterFiles, AreReadOnceForAllModelsOfAnEngine) {
  if (drawing_device().kind != DeviceKind::cpu) return;  // ranks would want a GPU each
  const AdapterUse use = use_of(kZImage, "ai_toolkit");
  EngineOptions each = options(kZImage.folder, Precision::f32, {.ulysses = 3});
  each.device_per_rank = true;
  each.file_hashes = std::make_shared<FileHashes>();
  LogLines hashes(use.file + ": SHA-256");
  EXPECT_EQ(each.file_hashes->of(use.file), use.sha256);
  {
    Engine engine(each);
    for (int i = 0; i < 2; ++i) {
      drawn(engine, {use});
      drawn(engine, {});
    }
    engine.adapter_files()->read(use);
  }
  EXPECT_EQ(hashes.count(), 1);
}

TEST(AdapterFiles, OneThreadReadsForAllThatWantTheFile) {
  Context ctx;
  const AdapterUse use = use_of(kZImage, "ai_toolkit");
  std::unique_ptr<AdapterFiles> files = std::make_unique<AdapterFiles>(*open_family(ctx, {.files = kZImage.folder}));
  const std::string summary = files->read(use).adapter->report.summary();
  files = std::make_unique<AdapterFiles>(*open_family(ctx, {.files = kZImage.folder}));  // whose family has gone
  LogLines reads(summary);
  std::vector<std::thread> threads;
  std::vector<std::shared_ptr<const Adapter>> found(8);
  for (std::shared_ptr<const Adapter>& one : found) threads.emplace_back([&] { one = files->read(use).adapter; });
  for (std::thread& thread : threads) thread.join();
  for (const auto& one : found) EXPECT_EQ(one, found.front());
  EXPECT_EQ(reads.count(), 1);
}

TEST(FileHashes, AreThoseOfTheFileAsItIs) {
  const Path file = Path(testing::TempDir()) / fmt::format("hashed_{}", getpid());
  std::ofstream(file) << "one";
  FileHashes hashes;
  const std::string one = hashes.of(file);
  EXPECT_EQ(one, file_sha256(file));
  EXPECT_EQ(hashes.of(file), one);
  std::ofstream(file) << "two";
  EXPECT_EQ(hashes.of(file), file_sha256(file));
  EXPECT_NE(hashes.of(file), one);
  std::filesystem::remove(file);
  EXPECT_THROW(hashes.of(file), Error);
}

TEST(KeptCaptions, OutliveAdaptersThatTheyDoNotDependOn) {
  const AdapterUse of_layers = lora_of("layers", {"layers.0.attention.to_q", "noise_refiner.0.feed_forward.w1"});
  const AdapterUse of_refiner = lora_of("refiner", {"layers.0.attention.to_q", "context_refiner.0.attention.to_k"});
  const AdapterUse of_encoder = lora_of("encoder", {"layers.0.self_attn.q_proj"});
  EngineOptions with_cache = options(kZImage.folder);
  with_cache.kept_caption_bytes = size_t{1} << 20;
  Engine engine(with_cache);
  const auto kept = [&](const std::vector<AdapterUse>& uses) {
    Engine fresh(options(kZImage.folder));
    const Generation made = engine.generate(request(uses));
    EXPECT_EQ(latents_of(made), drawn(fresh, uses)) << "with kept prompts and without";
    return made.report.kept_captions;
  };
  EXPECT_EQ(kept({}), 0);
  EXPECT_EQ(kept({of_layers}), 2) << "both prompts";
  EXPECT_EQ(kept({of_refiner}), 0);
  EXPECT_EQ(kept({of_encoder}), 0);
  EXPECT_EQ(kept({of_layers, of_encoder}), 2);
  AdapterUse other_scale = of_encoder;
  other_scale.scale = 0.5;
  EXPECT_EQ(kept({other_scale}), 0);
  // The same file at another place, which the request has no hash of.
  AdapterUse moved = of_encoder;
  moved.file += ".copy.safetensors";
  moved.sha256.clear();
  std::filesystem::copy_file(of_encoder.file, moved.file, std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(kept({moved}), 2);
  for (const AdapterUse& use : {of_layers, of_refiner, of_encoder, moved}) std::filesystem::remove(use.file);
}

}  // namespace
}  // namespace nostos
