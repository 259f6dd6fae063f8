// Tests that a model's files are opened once, however many parts they hold and however often these are loaded.
#include "families/part_files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "families/registry.h"
#include "families/shared_parts.h"
#include "families/zimage/model.h"
#include "io/safetensors.h"
#include "io/test_files.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;

const Path kTiny = Path(NOSTOS_SOURCE_DIR) / "tests/data/tiny/varied";

/// Counts how often a file is opened from now on.
class Opens {
 public:
  explicit Opens(const Path& file) : notify_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    // With the ends of reading, or the kernel would count opens that follow one another as one.
    EXPECT_GE(::inotify_add_watch(notify_, file.c_str(), IN_OPEN | IN_CLOSE_NOWRITE), 0) << std::strerror(errno);
  }
  ~Opens() { ::close(notify_); }
  Opens(const Opens&) = delete;
  Opens& operator=(const Opens&) = delete;

  /// \return those since the last call.
  int take() {
    int opens = 0;
    alignas(inotify_event) std::array<char, 4096> events{};
    for (ssize_t bytes = 0; (bytes = ::read(notify_, events.data(), events.size())) > 0;) {
      for (ssize_t at = 0; at < bytes;) {
        const auto* event = reinterpret_cast<const inotify_event*>(events.data() + at);
        opens += (event->mask & IN_OPEN) != 0 ? 1 : 0;
        at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
      }
    }
    return opens;
  }

 private:
  int notify_;
};

/// The tiny model in one file, by the names that all-in-one files have.
class AllInOne : public FolderTest {
 protected:
  AllInOne() : file_(folder_ / "all.safetensors") {
    std::map<std::string, std::string> texts;
    std::vector<std::shared_ptr<const WeightStore>> stores;
    std::vector<NamedTensor> tensors;
    // A small file is read, not mapped.
    const std::vector<std::byte> filling(2 * MappedFile::kReadBytes);
    tensors.push_back({"filling", {filling.data(), DType::u8, Shape{std::ssize(filling)}}});
    for (const auto& [part, prefix] : {std::pair{"transformer", "model.diffusion_model."},
                                       {"text_encoder", "text_encoders.qwen3_4b.transformer."},
                                       {"vae", "vae."}}) {
      texts["config." + std::string(part)] = slurp(kTiny / part / "config.json");
      stores.push_back(WeightStores().open(kTiny / part));
      for (const std::string& name : stores.back()->weights())
        tensors.push_back({prefix + name, *stores.back()->find(name)});
    }
    write_safetensors(file_, tensors, texts);
    options_.files.model = file_;
    options_.files.tokenizer = kTiny / "tokenizer";
  }

  Path file_;
  FamilyOptions options_;
};

TEST_F(AllInOne, IsOpenedOnceForAllItsParts) {
  Opens opens(file_);
  Context ctx({}, 1);
  const std::unique_ptr<Family> family = open_family(ctx, options_);
  EXPECT_EQ(opens.take(), 2) << "once to look at its first bytes, once to map it";
  for (int turn = 0; turn < 2; ++turn) {
    for (ModelPart* part : family->parts()) {
      part->load(ctx, {});
      EXPECT_TRUE(part->is_loaded()) << part->name();
      part->release();
    }
  }
  EXPECT_EQ(opens.take(), 0);
}

TEST_F(AllInOne, IsWhatItWasWhenItWasOpened) {
  const PartFiles transformer(options_, zimage::kTransformer), vae(options_, kVae);
  EXPECT_EQ(transformer.store(), vae.store());
  EXPECT_EQ(text_in_file(options_, "config.vae"), slurp(kTiny / "vae/config.json"));
  std::filesystem::remove(file_);
  EXPECT_EQ(transformer.find_config().place, ConfigPlace::in_file);

  const std::map<std::string, Shape> shapes{
      {"decoder.conv_in.weight", *vae.store()->info("vae.decoder.conv_in.weight")->shape()},
      {"decoder.conv_in.bias", *vae.store()->info("vae.decoder.conv_in.bias")->shape()}};
  const ReadWeight read = vae.weight_reader(shapes);
  for (int time = 0; time < 2; ++time) {
    for (const auto& [name, shape] : shapes) {
      const ConstView stored = *vae.store()->find("vae." + name);
      ASSERT_EQ(stored.dtype(), DType::f32);
      const std::vector<float> values = read(name);
      ASSERT_EQ(values.size() * sizeof(float), stored.size_in_bytes());
      EXPECT_EQ(std::memcmp(values.data(), stored.bytes(), stored.size_in_bytes()), 0) << name;
    }
  }
}

TEST(PartFolders, MakeAModelWithoutAModelFolder) {
  FamilyOptions options;
  options.files.transformer = kTiny / "transformer";
  options.files.text_encoder = kTiny / "text_encoder";
  options.files.vae = kTiny / "vae";
  options.files.tokenizer = kTiny / "tokenizer";
  Context ctx({}, 1);
  EXPECT_EQ(open_family(ctx, options)->name(), "Z-Image");
  options.files.transformer = kTiny / "vae";
  expect_error([&] { open_family(ctx, options); }, ErrorKind::model,
               {"vae/config.json", "AutoencoderKL", "ZImageTransformer2DModel"});
}

/// A part of the tiny model in a file of a folder of its own.
class OneFile : public FolderTest {
 protected:
  Path write_part(const std::string& part, const std::string& name) {
    const WeightStore store = WeightStore::open(kTiny / part);
    std::vector<NamedTensor> tensors;
    for (const std::string& tensor : store.weights()) tensors.push_back({tensor, *store.find(tensor)});
    write_safetensors(folder_ / name, tensors, {});
    return folder_ / name;
  }
  void put_config(const std::string& text) { write("config.json", text); }
  /// \return where the config of the part is found; nothing where nothing tells it, not even the shapes.
  static std::optional<ConfigPlace> place_of(const PartKind& kind, const Path& file, const Path& model = {}) {
    FamilyOptions options;
    options.files.model = model;
    options.files.*kind.place = file;
    const PartFiles files(options, kind);
    try {
      return files.find_config().place;
    } catch (const Error& error) {
      EXPECT_NE(std::string_view(error.what()).find("needs the model's config.json"), std::string_view::npos)
          << error.what();
      return std::nullopt;
    }
  }
};

TEST_F(OneFile, HasTheConfigBesideIt) {
  for (const PartKind* kind : {&zimage::kTransformer, &kTextEncoder, &kVae}) {
    const std::string part(kind->folder);
    const Path file = write_part(part, part + ".safetensors");
    std::filesystem::remove(folder_ / "config.json");
    EXPECT_NE(place_of(*kind, file), ConfigPlace::beside_weights) << part;
    put_config(slurp(kTiny / part / "config.json"));
    EXPECT_EQ(place_of(*kind, file), ConfigPlace::beside_weights) << part;
  }
  put_config(R"({"model_type": "qwen3"})");
  EXPECT_EQ(place_of(kTextEncoder, folder_ / "text_encoder.safetensors"), ConfigPlace::beside_weights);
}

TEST_F(OneFile, ThatIsAnotherPartIsCalledWhatItIs) {
  const Path transformer = write_part("transformer", "t.safetensors"), vae = write_part("vae", "v.safetensors");
  expect_error([&] { place_of(kVae, transformer); }, ErrorKind::model,
               {"t.safetensors: holds no VAE", "; it holds a Z-Image transformer"});
  expect_error([&] { place_of(zimage::kTransformer, vae); }, ErrorKind::model, {"v.safetensors", "; it holds a VAE"});
  const std::array<std::byte, 4> number{};
  const std::string name(100'000, 'x');
  const std::vector<NamedTensor> tensors{{name, {number.data(), DType::f32, Shape{1}}}};
  write_safetensors(folder_ / "x.safetensors", tensors, {});
  expect_error([&] { place_of(kVae, folder_ / "x.safetensors"); }, ErrorKind::model,
               {"; its tensors are " + std::string(2000, 'x') + "..."});
}

TEST_F(OneFile, HasNotTheConfigOfAnotherFileThatIsBesideIt) {
  const Path transformer = write_part("transformer", "transformer.safetensors"),
             vae = write_part("vae", "vae.safetensors");
  for (const char* other : {R"({"_class_name": "Flux2Transformer2DModel"})", R"({"_class_name": "AutoencoderKLFlux2"})",
                            R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})", "{}"}) {
    put_config(other);
    for (const auto& [kind, file] : {std::pair{&zimage::kTransformer, transformer}, {&kVae, vae}}) {
      EXPECT_EQ(place_of(*kind, file), std::nullopt) << other;
      EXPECT_EQ(place_of(*kind, file, kTiny), ConfigPlace::model_folder) << other;
    }
  }
}

}  // namespace
}  // namespace nostos
