// Tests what the job store keeps, and what it makes of what a dead server left.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/server/identifiers.h"
#include "apps/server/job_store.h"
#include "base/error.h"

namespace nostos::server {
namespace {

namespace fs = std::filesystem;

class ServerStore : public testing::Test {
 protected:
  ServerStore() : folder_(fs::path(testing::TempDir()) / random_id("store_")) {}
  ~ServerStore() override { fs::remove_all(folder_); }

  static Job job(const std::string& id, bool attached = false) {
    Job made;
    made.id = id;
    made.order.record.request = resolve({.prompt = "prompt of " + id, .seed = 5}, {}).request;
    made.client = "client";
    made.attached = attached;
    made.created_at = 1000.5;
    return made;
  }

  void write_image(const std::string& name) { std::ofstream(folder_ / "images" / name) << "bytes"; }

  fs::path folder_;
};

TEST_F(ServerStore, KeepsEverythingOfAJob) {
  const JobImage image{.id = "img_1", .seed = 5, .width = 64, .height = 32, .format = ImageFormat::webp, .bytes = 5};
  {
    JobStore store(folder_);
    store.insert(job("job_1"));
    store.set_running("job_1");
    store.set_completed(job("job_1"), {&image, 1}, "{}");
    write_image("img_1.webp");
  }
  JobStore store(folder_);
  const Job kept = store.find("job_1").value();
  EXPECT_EQ(kept.status, JobStatus::completed);
  EXPECT_EQ(kept.order.record.request.prompt, "prompt of job_1");
  EXPECT_EQ(kept.order.record.request.seed, 5u);
  EXPECT_EQ(kept.created_at, 1000.5);
  EXPECT_EQ(kept.attempts, 1);
  ASSERT_EQ(kept.images.size(), 1u);
  EXPECT_EQ(kept.images[0].format, ImageFormat::webp);
  EXPECT_EQ(store.image_file(kept.images[0]), folder_ / "images" / "img_1.webp");
  EXPECT_EQ(store.find_image("img_1")->bytes, 5u);
  EXPECT_FALSE(store.find("job_2"));
  EXPECT_FALSE(store.find_image("'; DROP TABLE jobs; --"));
}

TEST_F(ServerStore, KeepsSeedsOf64BitsAndWhichPromptsWereCut) {
  const JobImage image{.id = "img_1", .seed = UINT64_MAX, .bytes = 5};
  JobStore store(folder_);
  Job made = job("job_1");
  made.order.record.request.seed = UINT64_MAX;
  store.insert(made);
  made.cut = {.negative = true};
  store.set_completed(made, {&image, 1}, "{}");
  const Job kept = store.find("job_1").value();
  EXPECT_EQ(kept.order.record.request.seed, UINT64_MAX);
  EXPECT_EQ(kept.images.at(0).seed, UINT64_MAX);
  EXPECT_EQ(kept.cut, (PromptsCut{.negative = true}));
}

// One that the first version wrote, with a key that was not yet a client's own.
TEST_F(ServerStore, OpensEarlierDatabases) {
  { JobStore store(folder_); }
  {
    Database database(folder_ / "jobs.sqlite");
    database.execute("ALTER TABLE jobs DROP COLUMN cut");
    Statement(
        database.handle(),
        "INSERT INTO jobs (id, status, record, format, quality, client, idempotency_key, body_fingerprint, attached, "
        "created_at) VALUES ('old', 'queued', ?, 'png', 95, 'client', 'key', '0123456789abcdef', 0, 1)")
        .bind(
            R"({"prompt":"x","negative_prompt":"","height":64,"width":64,"num_inference_steps":2,"guidance_scale":0.0,)"
            R"("cfg_normalization":0.0,"cfg_truncation":1.0,"seed":5,"num_outputs":1,"rng":"torch-cpu","sigmas":[],)"
            R"("latents":"","model_path":"","precision":"f32","version":"0.1.0"})")
        .step();
  }
  for (const char* what : {"first", "again"}) {
    JobStore store(folder_);
    const Job old = store.find("old").value();
    EXPECT_EQ(old.order.record.request.prompt, "x") << what;
    EXPECT_EQ(old.cut, PromptsCut{}) << what;
    EXPECT_TRUE(job_json(old, 0, std::nullopt)["request"]["max_sequence_length"].is_null()) << what;
    EXPECT_EQ(store.queued().size(), 1u) << what;
  }
}

TEST_F(ServerStore, ADeadServersJobsComeBackOrEnd) {
  {
    JobStore store(folder_);
    for (const char* id : {"ran", "waited"}) store.insert(job(id));
    for (const char* id : {"ran_attached", "waited_attached"}) store.insert(job(id, true));
    store.set_running("ran");
    store.set_running("ran_attached");
    write_image("img_unfinished_0.png");
    write_image(".img_unfinished_1.png.tmp");
  }
  JobStore store(folder_);
  const std::vector<Job> queued = store.queued();
  ASSERT_EQ(queued.size(), 2u);
  EXPECT_EQ(queued[0].id, "ran");
  EXPECT_EQ(queued[1].id, "waited");
  for (const char* id : {"ran_attached", "waited_attached"}) EXPECT_EQ(store.find(id)->status, JobStatus::cancelled);
  EXPECT_TRUE(fs::is_empty(folder_ / "images"));
}

TEST_F(ServerStore, PicturesThatAPowerCutLeftHalfWrittenAreGivenUp) {
  const std::vector<JobImage> images{{.id = "img_1", .bytes = 5}, {.id = "img_2", .bytes = 500}};  // "bytes" is 5
  const JobImage whole{.id = "img_3", .bytes = 5};
  {
    JobStore store(folder_);
    for (const char* id : {"cut", "whole"}) store.insert(job(id, true));
    store.set_completed(job("cut", true), images, "{}");
    store.set_completed(job("whole", true), {&whole, 1}, "{}");
    for (const char* file : {"img_1.png", "img_2.png", "img_3.png"}) write_image(file);
  }
  JobStore store(folder_);
  EXPECT_EQ(store.find("cut")->status, JobStatus::failed);
  EXPECT_NE(store.find("cut")->error.find("not whole"), std::string::npos);
  EXPECT_TRUE(store.find("cut")->images.empty());
  EXPECT_EQ(store.find("whole")->status, JobStatus::completed);
  EXPECT_FALSE(store.find_image("img_1"));
  for (const char* file : {"img_1.png", "img_2.png"}) EXPECT_FALSE(fs::exists(folder_ / "images" / file)) << file;
  EXPECT_TRUE(fs::exists(folder_ / "images" / "img_3.png"));
}

// A rename that the disk had not seen yet.
TEST_F(ServerStore, AJobFailsWhosePictureAPowerCutTook) {
  const std::vector<JobImage> images{{.id = "img_1", .bytes = 5}, {.id = "img_2", .bytes = 5}};
  {
    JobStore store(folder_);
    store.insert(job("cut", true));
    store.set_completed(job("cut", true), images, "{}");
    write_image("img_1.png");
  }
  JobStore store(folder_);
  EXPECT_EQ(store.find("cut")->status, JobStatus::failed);
  EXPECT_FALSE(store.find_image("img_2"));
  EXPECT_TRUE(fs::is_empty(folder_ / "images"));
}

TEST_F(ServerStore, AFolderAmongThePicturesStays) {
  { JobStore store(folder_); }
  fs::create_directories(folder_ / "images" / "mine");
  write_image("mine/picture.png");
  write_image("img_unfinished_0.png");
  EXPECT_NO_THROW(JobStore store(folder_));
  EXPECT_TRUE(fs::exists(folder_ / "images" / "mine" / "picture.png"));
  EXPECT_FALSE(fs::exists(folder_ / "images" / "img_unfinished_0.png"));
}

TEST_F(ServerStore, AJobThatTakesTheServerDownIsGivenUp) {
  { JobStore(folder_).insert(job("killer")); }
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    JobStore store(folder_);
    ASSERT_EQ(store.find("killer")->status, JobStatus::queued) << attempt;
    store.set_running("killer");
  }
  const Job given_up = JobStore(folder_).find("killer").value();
  EXPECT_EQ(given_up.status, JobStatus::failed);
  EXPECT_NE(given_up.error.find("5 times"), std::string::npos) << given_up.error;
}

TEST_F(ServerStore, AStopOnPurposeIsNoAttempt) {
  JobStore store(folder_);
  store.insert(job("job"));
  store.set_running("job");
  store.set_queued("job");
  EXPECT_EQ(store.find("job")->attempts, 0);
  EXPECT_EQ(store.find("job")->status, JobStatus::queued);
}

TEST_F(ServerStore, AnEndStaysAsItIs) {
  JobStore store(folder_);
  store.insert(job("job"));
  store.set_ended("job", JobStatus::cancelled, "first");
  store.set_ended("job", JobStatus::failed, "second");
  EXPECT_EQ(store.find("job")->status, JobStatus::cancelled);
  EXPECT_EQ(store.find("job")->error, "first");
}

TEST_F(ServerStore, AnIdempotencyKeyGivesTheFirstJob) {
  JobStore store(folder_);
  Job first = job("job_1"), second = job("job_2");
  first.idempotency_key = second.idempotency_key = "key";
  EXPECT_EQ(store.insert(first).id, "job_1");
  EXPECT_EQ(store.insert(second).id, "job_1");
  EXPECT_FALSE(store.find("job_2"));
}

TEST_F(ServerStore, PagesFromTheNewest) {
  JobStore store(folder_);
  for (int i = 0; i < 5; ++i) store.insert(job("job_" + std::to_string(i)));
  store.set_ended("job_1", JobStatus::cancelled, "");
  EXPECT_EQ(store.list(2, "", {}).back().id, "job_3");
  EXPECT_EQ(store.list(9, "job_3", {}).front().id, "job_2");
  EXPECT_EQ(store.list(9, "", JobStatus::cancelled).size(), 1u);
  EXPECT_TRUE(store.list(9, "unknown", {}).empty());
}

TEST_F(ServerStore, RefusesWhatItCannotUse) {
  JobStore store(folder_);
  EXPECT_THROW(JobStore second(folder_), Error);
  const fs::path damaged = fs::path(testing::TempDir()) / random_id("damaged_");
  fs::create_directories(damaged);
  std::ofstream(damaged / "jobs.sqlite") << "this is no database, however long the text in it becomes";
  try {
    JobStore other(damaged);
    FAIL() << "a damaged database was opened";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("jobs.sqlite"), std::string::npos) << error.what();
  }
  fs::remove_all(damaged);
}

}  // namespace
}  // namespace nostos::server
