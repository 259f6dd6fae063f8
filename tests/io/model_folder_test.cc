// Tests the look-up of models in folders and in the Hugging Face cache.
#include "io/model_folder.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <optional>

#include "io/environment.h"
#include "io/file.h"
#include "io/test_files.h"
#include "io/unfinished.h"

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

TEST_F(ModelFolder, PathsAreExpandedAsPythonDoes) {
  ::setenv("HOME", "/house/u/", 1);
  ::setenv("NOSTOS_TEST_A", "/a", 1);
  ::setenv("NOSTOS_TEST_B", "$NOSTOS_TEST_A", 1);
  ::setenv("NOSTOS_TEST_EMPTY", "", 1);
  // What os.path.expandvars(os.path.expanduser(path)) of Python 3.11 gives.
  const std::map<std::string, std::string> wanted = {{"", ""},
                                                     {"~", "/house/u"},
                                                     {"~/x", "/house/u/x"},
                                                     {"~no_such_user/x", "~no_such_user/x"},
                                                     {"$NOSTOS_TEST_A/x", "/a/x"},
                                                     {"${NOSTOS_TEST_A}x", "/ax"},
                                                     {"$NOSTOS_TEST_AB", "$NOSTOS_TEST_AB"},
                                                     {"${NOSTOS_TEST_AB}", "${NOSTOS_TEST_AB}"},
                                                     {"$", "$"},
                                                     {"$$NOSTOS_TEST_A", "$/a"},
                                                     {"${NOSTOS_TEST_A", "${NOSTOS_TEST_A"},
                                                     {"${}x", "${}x"},
                                                     {"$NOSTOS_TEST_B", "$NOSTOS_TEST_A"},
                                                     {"x$NOSTOS_TEST_EMPTY/y", "x/y"},
                                                     {"a~b", "a~b"},
                                                     {"$NOSTOS_TEST_A$NOSTOS_TEST_A", "/a/a"},
                                                     {"${NOSTOS_TEST_A}${NOSTOS_TEST_B}/$C-", "/a$NOSTOS_TEST_A/$C-"},
                                                     {"$NOSTOS_TEST_A~", "/a~"},
                                                     {"${NOSTOS_TEST_A}}", "/a}"},
                                                     {"$-x", "$-x"}};
  for (const auto& [path, expanded] : wanted) EXPECT_EQ(expand_path(path), expanded) << path;
  ::setenv("HOME", "/", 1);
  EXPECT_EQ(expand_path("~"), "/");
  EXPECT_EQ(expand_path("~/x"), "/x");
  for (const char* name : {"NOSTOS_TEST_A", "NOSTOS_TEST_B", "NOSTOS_TEST_EMPTY"}) ::unsetenv(name);
}

TEST_F(ModelFolder, VariablesInTheCachesPlaceAreExpanded) {
  ::setenv("HF_HOME", "$HOME/hf", 1);
  EXPECT_EQ(hugging_face_cache(), folder_ / "home/hf/hub");
  ::setenv("HF_HUB_CACHE", "${HF_HOME}/cache", 1);
  EXPECT_EQ(hugging_face_cache(), "$HOME/hf/cache") << "once, as huggingface_hub does";
  ::setenv("HF_HUB_CACHE", "${HOME}/cache", 1);
  EXPECT_EQ(hugging_face_cache(), folder_ / "home/cache");
  ::setenv("NOSTOS_CACHE_DIR", "$HOME/plans", 1);
  EXPECT_EQ(cache_folder(), folder_ / "home/plans");
}

TEST_F(ModelFolder, FindsASnapshot) {
  ::setenv("HF_HUB_CACHE", folder_.c_str(), 1);
  write("models--Tongyi-MAI--Z-Image-Turbo/refs/main", "0123abc\n");
  write("models--Tongyi-MAI--Z-Image-Turbo/snapshots/0123abc/model_index.json", "{}");
  EXPECT_EQ(resolve_model_path("Tongyi-MAI/Z-Image-Turbo"),
            folder_ / "models--Tongyi-MAI--Z-Image-Turbo/snapshots/0123abc");
}

TEST_F(ModelFolder, FindsRevisionsByBranchTagAndCommit) {
  ::setenv("HF_HUB_CACHE", folder_.c_str(), 1);
  const std::string commit(40, 'c');
  for (const std::string& name : {std::string("one"), std::string("two"), commit})
    write("models--a--b/snapshots/" + name + "/model_index.json", "{}");
  write("models--a--b/refs/main", "one");
  write("models--a--b/refs/v1.0", "two");
  write("models--a--b/refs/refs/pr/7", commit);
  const std::filesystem::path snapshots = folder_ / "models--a--b/snapshots";
  EXPECT_EQ(resolve_model_path("a/b"), snapshots / "one");
  EXPECT_EQ(resolve_model_path("a/b@main"), snapshots / "one");
  EXPECT_EQ(resolve_model_path("a/b@v1.0"), snapshots / "two");
  EXPECT_EQ(resolve_model_path("a/b@refs/pr/7"), snapshots / commit);
  EXPECT_EQ(resolve_model_path("a/b@" + commit), snapshots / commit);
  expect_error([] { resolve_model_path("a/b@v2"); }, ErrorKind::model,
               {"refs/v2' does not exist", "there is", "v1.0", "main", "refs/pr/7", "nostos pull a/b@v2"});
}

TEST_F(ModelFolder, WithoutMainTheOnlySnapshotIsTaken) {
  ::setenv("HF_HUB_CACHE", folder_.c_str(), 1);
  write("models--a--b/snapshots/one/model_index.json", "{}");
  EXPECT_EQ(resolve_model_path("a/b"), folder_ / "models--a--b/snapshots/one");
  write("models--a--b/refs/v1.0", "one");
  EXPECT_EQ(resolve_model_path("a/b"), folder_ / "models--a--b/snapshots/one");
  write("models--a--b/snapshots/two/model_index.json", "{}");
  expect_error([] { resolve_model_path("a/b"); }, ErrorKind::model, {"2 revisions", "--revision", "v1.0", "one, two"});
}

TEST_F(ModelFolder, AnIncompleteSnapshotIsNamed) {
  ::setenv("HF_HUB_CACHE", folder_.c_str(), 1);
  write("models--a--b/refs/main", "one");
  std::filesystem::create_directories(folder_ / "models--a--b/snapshots/one");
  std::filesystem::create_symlink("../../blobs/0a1b", folder_ / "models--a--b/snapshots/one/model_index.json");
  expect_error([] { resolve_model_path("a/b"); }, ErrorKind::model,
               {"not completely downloaded", "model_index.json", "is a link to '../../blobs/0a1b'", "nostos pull a/b"});
  std::filesystem::create_directory_symlink("gone", folder_ / "link");
  expect_error([&] { resolve_model_path((folder_ / "link").string()); }, ErrorKind::model,
               {"not found: it is a link to 'gone', which does not exist"});
}

TEST_F(ModelFolder, ARevisionBelongsToAName) {
  EXPECT_EQ(with_revision("a/b", "v1"), "a/b@v1");
  EXPECT_EQ(with_revision("a/b@v1", "v1"), "a/b@v1");
  expect_error([] { with_revision("a/b@v1", "v2"); }, ErrorKind::invalid_input, {"--revision v2", "'a/b@v1'"});
  for (const std::string& path : {std::string(), folder_.string(), write("m/mini.safetensors", "x").string()})
    expect_error([&] { with_revision(path, "v1"); }, ErrorKind::invalid_input, {"--revision v1", "Hugging Face name"});
  expect_error([] { with_revision("plain", "v1"); }, ErrorKind::model, {"Hugging Face name"});
  for (const char* revision : {"", "..", "a//b", "../x", "/a", "a/", "a b", "a@b"})
    expect_error([&] { resolve_model_path(std::string("a/b@") + revision); }, ErrorKind::model, {"is no revision"});
}

TEST_F(ModelFolder, AnExistingFolderOrFileWins) {
  EXPECT_EQ(resolve_model_path(folder_.string()), folder_);
  const auto file = write("model.safetensors", "x");
  EXPECT_EQ(resolve_model_path(file.string()), file);
  expect_error([&] { resolve_model_path("/dev/null"); }, ErrorKind::model, {"/dev/null", "neither a folder nor"});
}

TEST_F(ModelFolder, WhatIsCalledAsAFileIsNoName) {
  for (const char* file : {"f/none.safetensors", "f/none.gguf", "none.gguf", "f/none.safetensors@main"}) {
    EXPECT_FALSE(is_model_name(file));
    expect_error([&] { resolve_model_path(file); }, ErrorKind::model, {"not found: there is no such file"});
  }
  EXPECT_TRUE(is_model_name("unsloth/Qwen3-4B-GGUF"));
}

TEST_F(ModelFolder, WhatCannotBeLookedAtIsNotCalledAbsent) {
  std::filesystem::create_symlink("loop", folder_ / "loop");
  expect_error([&] { resolve_model_path((folder_ / "loop").string()); }, ErrorKind::model,
               {"loop' cannot be read", "symbolic links"});
  const auto hidden = write("closed/model.safetensors", "x");
  const WithoutPermission nobody(folder_ / "closed");
  expect_error([&] { resolve_model_path(hidden.string()); }, ErrorKind::model,
               {"model.safetensors' cannot be read", "Permission denied"});
  EXPECT_NE(why_not_there(hidden).find("Permission denied"), std::string::npos);
  expect_error([&] { read_file(hidden, 10); }, ErrorKind::invalid_input, {"model.safetensors", "Permission denied"});
}

TEST_F(ModelFolder, MissingModelsSayHowToGetThem) {
  ::setenv("HF_HOME", folder_.c_str(), 1);
  expect_error(
      [&] { resolve_model_path("Tongyi-MAI/Z-Image-Turbo"); }, ErrorKind::model,
      {(folder_ / "hub/models--Tongyi-MAI--Z-Image-Turbo/refs/main").string(), "nostos pull Tongyi-MAI/Z-Image-Turbo"});
  write("hub/models--a--b/refs/main", "rev");
  expect_error([] { resolve_model_path("a/b"); }, ErrorKind::model,
               {"not completely downloaded", "snapshots/rev/model_index.json", "nostos pull a/b"});
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
