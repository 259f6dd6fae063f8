// Tests the engine from request to pixels on a tiny random model: defaults, crops, several outputs, latents,
// cancelling, memory.
#include "pipeline/engine.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "io/safetensors.h"
#include "ops/noise.h"

namespace nostos {
namespace {

const std::filesystem::path kModel = std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/tiny/diffusers_test";

EngineOptions options() {
  EngineOptions made;
  made.model = kModel;
  made.precision = Precision::f32;
  return made;
}

GenerationRequest request(int64_t height, int64_t width) {
  GenerationRequest made;
  made.prompt = "two red apples";
  made.height = height;
  made.width = width;
  made.num_inference_steps = 2;
  made.guidance_scale = 3;
  return made;
}

std::string failure(const std::function<void()>& call, ErrorKind kind) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

bool same_latents(const Picture& a, const Picture& b) {
  return std::memcmp(a.latents.data<float>(), b.latents.data<float>(), a.latents.size_in_bytes()) == 0;
}

TEST(Engine, LimitsComeFromTheConfigs) {
  const Engine engine(options());
  EXPECT_EQ(engine.limits().size_multiple, 4);  // a two-level VAE and patches of two
  EXPECT_EQ(engine.limits().default_steps, 8);
  EXPECT_EQ(engine.limits().default_guidance_scale, 0);
  EXPECT_STREQ(engine.precision_name(), "f32");
}

TEST(Engine, OtherSizesAreCroppedEvenlyFromTheNextMultiple) {
  struct Case {
    int64_t height, width, top, left;
  };
  Engine engine(options());
  const Generation whole = engine.generate(request(24, 32));
  const Image& from = whole.pictures[0].image;
  for (const Case& c : {Case{21, 30, 1, 1}, {24, 29, 0, 1}, {21, 32, 1, 0}, {22, 31, 1, 0}, {23, 30, 0, 1}}) {
    const Generation cropped = engine.generate(request(c.height, c.width));
    EXPECT_EQ(cropped.resolved.drawn_height, 24);
    EXPECT_EQ(cropped.resolved.drawn_width, 32);
    const Image& image = cropped.pictures[0].image;
    ASSERT_EQ(image.height, c.height);
    ASSERT_EQ(image.width, c.width);
    for (int64_t y = 0; y < c.height; ++y) {
      EXPECT_EQ(std::memcmp(image.rgb.data() + y * c.width * 3, from.rgb.data() + ((y + c.top) * 32 + c.left) * 3,
                            static_cast<size_t>(c.width * 3)),
                0)
          << c.height << "x" << c.width << ", row " << y;
    }
  }
}

// Every drawing fits into the memory of the first, which has the longest table of steps before all else. What a drawing
// leaves there is of no use to one that differs in one thing alone.
TEST(Engine, ADrawingOfAnotherShapeLeavesNoTrace) {
  struct Case {
    int64_t height, width, steps;
  };
  Engine engine(options());
  for (const Case& c : {Case{24, 40, 40}, {24, 40, 2}, {24, 28, 2}, {16, 28, 2}, {24, 28, 2}}) {
    GenerationRequest drawn = request(c.height, c.width);
    drawn.num_inference_steps = c.steps;
    const Generation wanted = Engine(options()).generate(drawn), got = engine.generate(drawn);
    EXPECT_TRUE(same_latents(wanted.pictures[0], got.pictures[0])) << c.height << "x" << c.width << ", " << c.steps;
  }
}

TEST(Engine, EachOutputUsesTheNextSeed) {
  Engine engine(options());
  GenerationRequest three = request(16, 24);
  three.num_outputs = 3;
  three.seed = 7;
  int64_t last = 0;
  Progress progress;
  progress.on_step = [&](int64_t step, int64_t steps, double) {
    EXPECT_EQ(step, ++last);
    EXPECT_EQ(steps, 6);
  };
  const Generation together = engine.generate(three, progress);
  EXPECT_EQ(last, 6);
  ASSERT_EQ(together.pictures.size(), 3u);
  for (uint64_t i = 0; i < 3; ++i) {
    GenerationRequest one = request(16, 24);
    one.seed = 7 + i;
    const Generation alone = engine.generate(one);
    EXPECT_EQ(together.pictures[i].seed, 7 + i);
    EXPECT_TRUE(same_latents(together.pictures[i], alone.pictures[0]));
    EXPECT_EQ(together.pictures[i].image, alone.pictures[0].image);
  }
  EXPECT_FALSE(same_latents(together.pictures[0], together.pictures[1]));
}

TEST(Engine, ThreadsAndReleasedPartsDoNotChangeThePicture) {
  Engine engine(options());
  const Generation reference = engine.generate(request(28, 20));
  for (const int threads : {1, 2, 3}) {
    EngineOptions other = options();
    other.threads = threads;
    other.memory = {.mode = threads == 3 ? MemoryMode::offload : MemoryMode::automatic, .one_drawing = threads == 1};
    Engine second(other);
    const Generation again = second.generate(request(28, 20));
    EXPECT_TRUE(same_latents(reference.pictures[0], again.pictures[0])) << threads << " threads";
    EXPECT_EQ(reference.pictures[0].image, again.pictures[0].image) << threads << " threads";
  }
}

TEST(Engine, GivenLatentsReplaceTheNoise) {
  Engine engine(options());
  Context ctx({}, 1);
  const auto latents = [](const Shape& shape, float value = 0) {
    auto made = std::make_shared<Tensor>(Device{}, DType::f32, shape);
    std::fill_n(made->data<float>(), shape.elements(), value);
    return made;
  };
  GenerationRequest drawn;
  for (const RngKind rng : {RngKind::torch_cpu, RngKind::torch_cuda}) {
    drawn = request(16, 16);
    drawn.rng = rng;
    const auto noise = latents({1, 16, 8, 8});
    if (rng == RngKind::torch_cpu)
      fill_torch_cpu_normal(drawn.seed, {noise->data<float>(), 16 * 8 * 8});
    else
      ops::philox_normal(ctx, drawn.seed, *noise);
    const Generation from_seed = engine.generate(drawn);
    drawn.start = Latents{.file = "", .values = noise};
    drawn.seed = 99;
    EXPECT_TRUE(same_latents(from_seed.pictures[0], engine.generate(drawn).pictures[0])) << name(rng);
  }
  const auto expect_refused = [&](std::shared_ptr<const Tensor> values, const char* what) {
    drawn.start = Latents{.file = "x.safetensors", .values = std::move(values)};
    const std::string message = failure([&] { engine.generate(drawn); }, ErrorKind::invalid_input);
    EXPECT_TRUE(message.starts_with("x.safetensors: ")) << message;
    EXPECT_NE(message.find(what), std::string::npos) << message;
  };
  const auto spoiled = latents({1, 16, 8, 8});
  spoiled->data<float>()[77] = std::nanf("");
  expect_refused(spoiled, "tensor 'latents' has values that are no numbers");
  expect_refused(std::make_shared<Tensor>(Device{}, DType::bf16, Shape{1, 16, 8, 8}),
                 "tensor 'latents' is BF16 [1, 16, 8, 8], this size wants F32 [1, 16, 8, 8]");
  expect_refused(nullptr, "not read");
  drawn.height = 20;
  expect_refused(latents({1, 16, 8, 8}), "[1, 16, 10, 8]");
  // As many numbers as the turned picture has.
  drawn.height = 32;
  drawn.width = 16;
  expect_refused(latents({1, 16, 8, 16}), "[1, 16, 16, 8]");
}

TEST(Engine, CancelsBetweenBlocksAndDrawsAgain) {
  Engine engine(options());
  std::atomic<bool> cancel{false};
  Progress progress;
  progress.cancel = &cancel;
  progress.on_step = [&](int64_t step, int64_t, double) {
    EXPECT_EQ(step, 1);
    cancel = true;
  };
  failure([&] { engine.generate(request(16, 16), progress); }, ErrorKind::cancelled);
  EXPECT_EQ(engine.generate(request(16, 16)).pictures.size(), 1u);
}

TEST(Engine, ReportsWhatARunCost) {
  EngineOptions released = options();
  released.memory.one_drawing = true;
  Engine engine(released);
  const RunReport report = engine.generate(request(16, 16)).report;
  std::vector<std::string> names;
  for (const StageTime& stage : report.stages) names.push_back(stage.name);
  EXPECT_EQ(names, (std::vector<std::string>{"load", "text_encoder", "denoise", "vae_decode"}));
  EXPECT_EQ(report.step_ms.size(), 2u);
  EXPECT_GT(report.weight_bytes, 0u);
  EXPECT_GT(report.arena_bytes, 0u);
  EXPECT_GT(report.peak_host_bytes, 0u);
  EXPECT_EQ(report.transformer_rows, 2 * (32 + 32));  // of both passes of guidance
  EXPECT_GT(report.transformer_flop, 0);
  EXPECT_GT(engine.measure_matmul_gflops(report.transformer_rows), 0);
}

// On the CPU each part is on disk but for its stage, in every drawing.
TEST(Engine, OffloadKeepsOnePartAtATime) {
  EngineOptions offloaded = options(), kept = options();
  offloaded.memory.mode = MemoryMode::offload;
  kept.memory = {.mode = MemoryMode::resident, .one_drawing = true};
  Engine one_at_a_time(offloaded), resident(kept);
  for (const char* what : {"first", "again"}) {
    std::vector<std::chrono::steady_clock::time_point> stages;
    Progress progress;
    progress.on_stage = [&](const std::string&) { stages.push_back(std::chrono::steady_clock::now()); };
    const Generation a = one_at_a_time.generate(request(16, 16), progress), b = resident.generate(request(16, 16));
    // Parts are loaded three times, which are one stage of the report; the last comes before the decoding.
    ASSERT_EQ(stages.size(), 6u) << what;
    const std::chrono::duration<double, std::milli> last_load = stages[5] - stages[4];
    EXPECT_GT(a.report.stages.front().ms, last_load.count()) << what;
    EXPECT_TRUE(same_latents(a.pictures[0], b.pictures[0])) << what;
    EXPECT_EQ(a.report.stages.front().name, "load") << what;
    EXPECT_NE(b.report.stages.front().name, "load") << what;
    EXPECT_LT(a.report.weight_bytes, b.report.weight_bytes) << what;
    EXPECT_EQ(a.report.streamed_bytes, 0u) << what;
  }
}

TEST(Engine, LongPromptsAreCut) {
  Engine engine(options());
  GenerationRequest lengthy = request(16, 16);
  lengthy.prompt = std::string(100000, 'a');
  lengthy.num_inference_steps = 1;
  EXPECT_EQ(engine.generate(lengthy).cut, (PromptsCut{.prompt = true}));
  std::swap(lengthy.prompt, lengthy.negative_prompt);
  PromptsCut told;
  Progress progress;
  progress.on_prompts = [&](PromptsCut cut) { told = cut; };
  EXPECT_EQ(engine.generate(lengthy, progress).cut, (PromptsCut{.negative = true}));
  EXPECT_EQ(told, (PromptsCut{.negative = true}));
  lengthy.guidance_scale = 0;  // nobody reads the negative prompt
  EXPECT_EQ(engine.generate(lengthy).cut, PromptsCut{});
}

// A caption is that of the tokens which the limit leaves, also where captions are kept.
TEST(Engine, TheSequenceLengthCutsThePrompt) {
  EngineOptions keeping = options();
  keeping.kept_caption_bytes = size_t{1} << 20;
  Engine engine(keeping), forgetful(options());
  GenerationRequest whole = request(16, 16);
  whole.guidance_scale = 0;
  GenerationRequest cut = whole;
  cut.max_sequence_length = 6;
  const Generation drawn = engine.generate(whole), shorter = engine.generate(cut);
  EXPECT_FALSE(drawn.cut.prompt);
  EXPECT_TRUE(shorter.cut.prompt);
  EXPECT_EQ(shorter.report.kept_captions, 0);
  EXPECT_FALSE(same_latents(drawn.pictures[0], shorter.pictures[0]));
  EXPECT_TRUE(same_latents(shorter.pictures[0], forgetful.generate(cut).pictures[0]));
  whole.max_sequence_length = 200;  // more than its tokens: the same caption
  const Generation again = engine.generate(whole);
  EXPECT_EQ(again.report.kept_captions, 1);
  EXPECT_TRUE(same_latents(drawn.pictures[0], again.pictures[0]));
  whole.max_sequence_length = engine.limits().max_sequence_length + 1;
  const std::string message = failure([&] { engine.generate(whole); }, ErrorKind::invalid_input);
  EXPECT_NE(message.find("max_sequence_length"), std::string::npos) << message;
}

TEST(Engine, TakesTogetherWhatIsDrawnAtOneSize) {
  const Engine engine(options());
  EXPECT_TRUE(engine.takes_together(request(16, 20), request(13, 17)));  // both drawn at 16x20
  EXPECT_FALSE(engine.takes_together(request(16, 20), request(20, 16)));
  EXPECT_FALSE(engine.takes_together(request(16, 20), request(16, 0)));
}

TEST(Engine, CaptionsOfUnlikeLengthShareOnePlan) {
  Engine engine(options());
  GenerationRequest unlike = request(16, 20);
  unlike.prompt =
      "a long prompt of more than thirty-two tokens, so that it is padded to another length than the empty negative "
      "one";
  EXPECT_EQ(engine.generate(unlike).pictures.size(), 1u);
  std::swap(unlike.prompt, unlike.negative_prompt);
  EXPECT_EQ(engine.generate(unlike).pictures.size(), 1u);
}

constexpr size_t kCaptionBytes = 32 * 32 * sizeof(float);  // of at most 32 tokens

// A prompt that comes again, with another seed, at another size or as the negative one, gives the same bits unencoded.
TEST(Engine, KeptCaptionsDoNotChangeThePicture) {
  struct Case {
    const char *prompt, *negative;
    int64_t height, kept;
  };
  const Case cases[] = {{"two red apples", "", 16, 0},
                        {"two red apples", "", 20, 2},
                        {"a dog", "", 16, 1},
                        {"", "two red apples", 16, 2},
                        {"a cat", "a bird", 16, 0},
                        {"two red apples", "a dog", 16, 1},  // it had to make room
                        {"two red apples", "a cat", 24, 1},
                        {"a dog", "two red apples", 24, 2}};
  for (const bool offloads : {false, true}) {
    for (const int64_t ranks : {1, 2}) {
      EngineOptions keeping = options();
      if (offloads) keeping.memory.mode = MemoryMode::offload;
      keeping.parallelism.ulysses = ranks;
      keeping.kept_caption_bytes = 3 * kCaptionBytes;
      Engine engine(keeping), forgetful(options());
      for (const Case& c : cases) {
        GenerationRequest drawn = request(c.height, 16);
        drawn.prompt = c.prompt;
        drawn.negative_prompt = c.negative;
        const Generation a = engine.generate(drawn), b = forgetful.generate(drawn);
        EXPECT_TRUE(same_latents(a.pictures[0], b.pictures[0])) << c.prompt << ", " << c.negative;
        EXPECT_EQ(a.report.kept_captions, c.kept) << c.prompt << ", " << c.negative;
        EXPECT_EQ(b.report.kept_captions, 0);
      }
    }
  }
}

TEST(Engine, KeptCaptionsNeedNoTextEncoder) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "without_encoder";
  std::filesystem::remove_all(folder);
  std::filesystem::copy(kModel, folder, std::filesystem::copy_options::recursive);
  EngineOptions keeping = options();
  keeping.model = folder;
  keeping.memory.mode = MemoryMode::offload;
  keeping.kept_caption_bytes = 3 * kCaptionBytes;
  Engine engine(keeping);
  const Generation drawn = engine.generate(request(16, 16));
  std::filesystem::remove(folder / "text_encoder/model.safetensors");
  EXPECT_TRUE(same_latents(drawn.pictures[0], engine.generate(request(16, 16)).pictures[0]));
  std::filesystem::remove_all(folder);
}

// What a drawing that ended early has begun to keep, nobody gets.
TEST(Engine, CaptionsOfACancelledDrawingAreNotKept) {
  EngineOptions keeping = options();
  keeping.kept_caption_bytes = 3 * kCaptionBytes;
  Engine engine(keeping);
  std::atomic<bool> cancel{false};
  Progress progress;
  progress.cancel = &cancel;
  progress.on_step = [&](int64_t, int64_t, double) { cancel = true; };
  failure([&] { engine.generate(request(16, 16), progress); }, ErrorKind::cancelled);
  EXPECT_EQ(engine.generate(request(16, 16)).report.kept_captions, 0);
  EXPECT_EQ(engine.generate(request(16, 16)).report.kept_captions, 2);
}

TEST(Engine, DamagedPartsAreFoundBeforeAnyStage) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "damaged_vae";
  std::filesystem::remove_all(folder);
  std::filesystem::copy(kModel, folder, std::filesystem::copy_options::recursive);
  for (const auto& entry : std::filesystem::directory_iterator(folder / "vae")) {
    if (entry.path().extension() == ".safetensors")
      std::filesystem::resize_file(entry.path(), std::filesystem::file_size(entry.path()) - 4);
  }
  EngineOptions released = options();
  released.model = folder;
  released.memory.one_drawing = true;
  EXPECT_NE(failure([&] { Engine{released}; }, ErrorKind::model).find("vae"), std::string::npos);
  std::filesystem::remove_all(folder);
}

/// Makes the first values of a tensor NaN. \param file of a part, a safetensors file
void spoil(const std::filesystem::path& file, const std::string& tensor) {
  std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
  uint64_t header_bytes = 0;
  bytes.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  std::string header(header_bytes, ' ');
  bytes.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const size_t entry = header.find('"' + tensor + '"');
  ASSERT_NE(entry, std::string::npos) << tensor;
  const std::string offsets = "\"data_offsets\":[";
  const uint64_t begin = std::stoull(header.substr(header.find(offsets, entry) + offsets.size()));
  bytes.seekp(static_cast<std::streamoff>(sizeof header_bytes + header_bytes + begin));
  bytes.write("\xff\xff\xff\xff", 4);  // as f32 and as bf16
}

// A black picture would be no better than none.
TEST(Engine, ValuesThatAreNoNumbersAreAnError) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "spoiled";
  struct Case {
    const char *part, *tensor, *told;
  };
  for (const Case& c : {Case{"transformer", "all_final_layer.2-1.linear.bias", "the transformer gave"},
                        {"vae", "decoder.conv_in.bias", "the VAE gave"},
                        {"vae", "decoder.conv_out.bias", "the VAE gave"}}) {
    std::filesystem::remove_all(folder);
    std::filesystem::copy(kModel, folder, std::filesystem::copy_options::recursive);
    spoil(folder / c.part / "diffusion_pytorch_model.safetensors", c.tensor);
    for (const int64_t ranks : {1, 3}) {
      EngineOptions spoiled = options();
      spoiled.model = folder;
      spoiled.parallelism.ulysses = ranks;
      Engine engine(spoiled);
      GenerationRequest two = request(20, 24);
      two.num_outputs = 2;
      EXPECT_NE(failure([&] { engine.generate(two); }, ErrorKind::invalid_input).find(c.told), std::string::npos)
          << c.tensor << ", " << ranks << " ranks";
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(Engine, SyntheticWeightsNeedConfigsAlone) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "configs_alone";
  for (const char* file : {"model_index.json", "transformer/config.json", "text_encoder/config.json", "vae/config.json",
                           "scheduler/scheduler_config.json"}) {
    std::filesystem::create_directories((folder / file).parent_path());
    std::filesystem::copy_file(kModel / file, folder / file, std::filesystem::copy_options::overwrite_existing);
  }
  EngineOptions synthetic = options();
  synthetic.model = folder;
  synthetic.synthetic = true;
  Engine engine(synthetic);
  const Generation generation = engine.generate(request(16, 16));
  for (int64_t i = 0; i < generation.pictures[0].latents.shape().elements(); ++i) {
    ASSERT_TRUE(std::isfinite(generation.pictures[0].latents.data<float>()[i]));
  }
  synthetic.synthetic = false;
  failure([&] { Engine{synthetic}; }, ErrorKind::model);
  std::filesystem::remove_all(folder);
}

TEST(Engine, MissingBackendsAndModelsAreNamed) {
  EngineOptions cuda = options();
  cuda.device = {DeviceKind::cuda, 0};
  EXPECT_NE(failure([&] { Engine{cuda}; }, ErrorKind::device).find("CUDA"), std::string::npos);
  EngineOptions missing = options();
  missing.model = std::filesystem::path("/nonexistent/model");
  EXPECT_NE(failure([&] { Engine{missing}; }, ErrorKind::model).find("model_index.json"), std::string::npos);
}

}  // namespace
}  // namespace nostos
