// Tests the look-up of models in folders and in the Hugging Face cache.
#include "io/model_folder.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <optional>

#include "io/environment.h"
#include "io/test_files.h"

namespace nostos {
namespace {

/// Runs with none of the cache's variables set and restores them afterwards.
class ModelFolder : public FolderTest {
 protected:
  ModelFolder() {
    for (const char* name :
         {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME", "NOSTOS_CACHE_DIR"}) {
      const char* value = std::getenv(name);
      saved_[name] = value == nullptr ? std::nullopt : std::optional<std::string>(value);
      ::unsetenv(name);
    }
    ::setenv("HOME", (folder_ / "home").c_str(), 1);
  }
  ~ModelFolder() override {
    for (const auto& [name, value] : saved_) {
      if (value)
        ::setenv(name.c_str(), value->c_str(), 1);
      else
        ::unsetenv(name.c_str());
    }
  }

  std::map<std::string, std::optional<std::string>> saved_;
};

TEST_F(ModelFolder, OwnCachePlaceFollowsTheVariables) {
  EXPECT_EQ(cache_folder(), folder_ / "home/.cache/nostos");
  ::setenv("XDG_CACHE_HOME", "/xdg", 1);
  EXPECT_EQ(cache_folder(), "/xdg/nostos");
  ::setenv("NOSTOS_CACHE_DIR", "~/plans", 1);
  EXPECT_EQ(cache_folder(), folder_ / "home/plans");
  ::setenv("NOSTOS_CACHE_DIR", "", 1);
  EXPECT_EQ(cache_folder(), "");
  for (const char* name : {"NOSTOS_CACHE_DIR", "XDG_CACHE_HOME", "HOME"}) ::unsetenv(name);
  EXPECT_EQ(cache_folder(), "");
}

TEST_F(ModelFolder, CachePlaceFollowsTheVariables) {
  EXPECT_EQ(hugging_face_cache(), folder_ / "home/.cache/huggingface/hub");
  ::setenv("XDG_CACHE_HOME", "/xdg", 1);
  EXPECT_EQ(hugging_face_cache(), "/xdg/huggingface/hub");
  ::setenv("HF_HOME", "~/hf", 1);
  EXPECT_EQ(hugging_face_cache(), folder_ / "home/hf/hub");
  ::setenv("HUGGINGFACE_HUB_CACHE", "/old", 1);
  EXPECT_EQ(hugging_face_cache(), "/old");
  ::setenv("HF_HUB_CACHE", "/new", 1);
  EXPECT_EQ(hugging_face_cache(), "/new");
  ::setenv("HF_HUB_CACHE", "", 1);
  EXPECT_EQ(hugging_face_cache(), "/old") << "empty counts as unset";
}

TEST_F(ModelFolder, FindsASnapshot) {
  ::setenv("HF_HUB_CACHE", folder_.c_str(), 1);
  write("models--Tongyi-MAI--Z-Image-Turbo/refs/main", "0123abc\n");
  write("models--Tongyi-MAI--Z-Image-Turbo/snapshots/0123abc/model_index.json", "{}");
  EXPECT_EQ(resolve_model_path("Tongyi-MAI/Z-Image-Turbo"),
            folder_ / "models--Tongyi-MAI--Z-Image-Turbo/snapshots/0123abc");
}

TEST_F(ModelFolder, AnExistingFolderWins) {
  EXPECT_EQ(resolve_model_path(folder_.string()), folder_);
  const auto file = write("model.safetensors", "x");
  expect_error([&] { resolve_model_path(file.string()); }, ErrorKind::model,
               {"model.safetensors", "must be a checkpoint folder"});
}

TEST_F(ModelFolder, MissingModelsSayHowToGetThem) {
  ::setenv("HF_HOME", folder_.c_str(), 1);
  expect_error(
      [&] { resolve_model_path("Tongyi-MAI/Z-Image-Turbo"); }, ErrorKind::model,
      {(folder_ / "hub/models--Tongyi-MAI--Z-Image-Turbo/refs/main").string(), "hf download Tongyi-MAI/Z-Image-Turbo"});
  write("hub/models--a--b/refs/main", "rev");
  expect_error([] { resolve_model_path("a/b"); }, ErrorKind::model,
               {"not completely downloaded", "snapshots/rev/model_index.json", "hf download a/b"});
}

TEST_F(ModelFolder, NamesAndRevisionsStayInsideTheCache) {
  ::setenv("HF_HUB_CACHE", folder_.c_str(), 1);
  for (const char* name : {"", "plain", "a/b/c", "/absent/folder", "../x", "a/..", "a/b c", "~/m", "a/"}) {
    expect_error([&] { resolve_model_path(name); }, ErrorKind::model, {"no existing folder", "Hugging Face name"});
  }
  for (const char* revision : {"", "..", "../../../etc", "a/b"}) {
    write("models--a--b/refs/main", revision);
    expect_error([] { resolve_model_path("a/b"); }, ErrorKind::model, {"refs/main", "does not hold a revision"});
  }
  write("models--a--b/refs/main", std::string(10'000, 'a'));
  expect_error([] { resolve_model_path("a/b"); }, ErrorKind::model, {"refs/main", "larger"});
}

}  // namespace
}  // namespace nostos
