// Tests what becomes of jobs on a full disk, and what is forgotten where there are limits. The disk is a small tmpfs,
// which the tests must be allowed to mount.
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/database.h"
#include "apps/server/housekeeper.h"
#include "base/error.h"
#include "server_jobs_case.h"

namespace nostos::server {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

/// Stores a job whose one picture has that many bytes, as one that is completed.
void complete(JobStore& store, const std::string& id, size_t bytes = 100) {
  store.insert(small_job(id));
  const JobImage image{.id = "img_" + id, .seed = 5, .width = 64, .height = 64, .bytes = bytes};
  store.write_image(image, std::vector<uint8_t>(bytes), Survives::process);
  store.set_completed(small_job(id), {&image, 1}, "{}");
}

/// Has the job have ended that many days ago.
void set_age(const fs::path& folder, const std::string& id, double days) {
  Database database(folder / "jobs.sqlite");
  Statement(database.handle(), "UPDATE jobs SET finished_at = ? WHERE id = ?")
      .bind(unix_now() - days * 86'400)
      .bind(id)
      .step();
}

using Ids = std::vector<std::string>;

TEST(StorageLimits, TheOldestArePastTheNumberOfPictures) {
  const TemporaryFolder folder;
  JobStore store(folder.path(), {.pictures = 3});
  for (const char* id : {"a", "b", "c"}) complete(store, id);
  EXPECT_TRUE(store.surplus(9).empty());
  store.insert(small_job("failed"));
  store.set_ended("failed", JobStatus::failed, "counts as one");
  EXPECT_EQ(store.surplus(9), Ids{"a"});
  complete(store, "e");
  EXPECT_EQ(store.surplus(9), (Ids{"a", "b"}));
  EXPECT_EQ(store.surplus(1), Ids{"a"});
  for (const char* id : {"a", "b"}) store.remove(store.find(id).value());
  EXPECT_TRUE(store.surplus(9).empty());
  EXPECT_EQ(store.use().pictures, 2);
  EXPECT_EQ(store.use().entries, 3);
  EXPECT_EQ(store.use().bytes, 200u);
}

TEST(StorageLimits, TheOldestArePastTheBytesButTheLastStays) {
  const TemporaryFolder folder;
  JobStore store(folder.path(), {.bytes = 1000});
  complete(store, "a", 600);
  complete(store, "b", 400);
  EXPECT_TRUE(store.surplus(9).empty());
  complete(store, "c", 5000);
  EXPECT_EQ(store.surplus(9), (Ids{"a", "b"}));
}

TEST(StorageLimits, AgeCountsFromTheEnd) {
  const TemporaryFolder folder;
  {
    JobStore store(folder.path());
    for (const char* id : {"old", "young"}) complete(store, id);
    store.insert(small_job("waits"));
    set_age(folder.path(), "old", 3);
    set_age(folder.path(), "young", 1);
    EXPECT_TRUE(store.surplus(9).empty());
  }
  JobStore store(folder.path(), {.days = 2});
  EXPECT_EQ(store.surplus(9), Ids{"old"});
  set_age(folder.path(), "young", 2.5);
  EXPECT_EQ(store.surplus(9), (Ids{"old", "young"}));  // the last, too
}

TEST(StorageLimits, NothingThatWaitsRunsOrIsHeldIsPastThem) {
  const TemporaryFolder folder;
  JobStore store(folder.path(), {.pictures = 1});
  for (const char* id : {"waits", "runs"}) store.insert(small_job(id));
  store.set_running("runs");
  for (const char* id : {"held", "b", "c"}) complete(store, id);
  auto held = store.hold("held");
  EXPECT_EQ(store.surplus(9), (Ids{"b"}));
  held = nullptr;
  EXPECT_EQ(store.surplus(9), (Ids{"held", "b"}));
}

TEST(StorageLimits, WhatIsKeptIsCountedAtTheStart) {
  const TemporaryFolder folder;
  {
    JobStore store(folder.path());
    for (const char* id : {"a", "b"}) complete(store, id);
    for (const char* id : {"cancelled", "waits"}) store.insert(small_job(id));
    store.set_ended("cancelled", JobStatus::cancelled, "");
  }
  JobStore store(folder.path(), {.pictures = 2});
  EXPECT_EQ(store.use().pictures, 2);
  EXPECT_EQ(store.use().entries, 3);
  EXPECT_EQ(store.use().bytes, 200u);
  Metrics metrics;
  JobService service(store, metrics, 64);
  {
    const Housekeeper housekeeper(store, service, metrics);
    wait_until([&] { return !store.find("a"); });
  }
  EXPECT_FALSE(fs::exists(folder.path() / "images" / "img_a.png"));
  for (const char* id : {"b", "cancelled", "waits"}) EXPECT_TRUE(store.find(id)) << id;
}

class FullDisk : public testing::Test {
 protected:
  void SetUp() override { mount_disk("4m"); }
  void TearDown() override {
    if (!is_mounted_) return;
    EXPECT_EQ(::umount(disk_.path().c_str()), 0) << std::strerror(errno);
  }

  void mount_disk(const std::string& size) {
    if (is_mounted_) ::umount(disk_.path().c_str());
    fs::create_directories(disk_.path());
    is_mounted_ = ::mount("tmpfs", disk_.path().c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
    if (!is_mounted_) GTEST_SKIP() << "no small file system can be mounted: " << std::strerror(errno);
  }

  fs::path folder() const { return disk_.path() / "data"; }
  fs::path filler() const { return disk_.path() / "filler"; }

  /// Has somebody else take all bytes of the disk but `left`, and those of the reserve, too, if it has some.
  void fill(uint64_t left = 0, bool takes_reserve = false) {
    if (takes_reserve) fs::resize_file(folder() / "reserve", 0);
    const uint64_t free = fs::space(disk_.path()).available;
    ASSERT_GE(free, left);
    std::ofstream file(filler(), std::ios::app | std::ios::binary);
    file << std::string(free - left, 'x') << std::flush;
    file.close();
    ASSERT_LT(fs::space(disk_.path()).available, left + 8192);
  }
  void make_space() { fs::remove(filler()); }

  TemporaryFolder disk_;
  bool is_mounted_ = false;
};

// The recipe of a client that wants base64 alone, and whose pictures pile up.
TEST_F(FullDisk, PicturesThatPileUpCanBeForgotten) {
  mount_disk("600k");
  JobStore store(folder());
  Ids kept;
  for (int i = 0; i < 100; ++i) {
    const std::string id = std::to_string(i);
    try {
      complete(store, id, 60'000);
      kept.push_back(id);
    } catch (const StorageError& error) {
      EXPECT_EQ(store.trouble(), error.reason());
      EXPECT_EQ(error.reason().find('/'), std::string::npos) << error.reason();  // health tells it to everybody
      if (!store.probe()) break;  // the log of changes could be shortened before
    }
  }
  ASSERT_TRUE(store.trouble()) << "the disk is not small";
  ASSERT_GT(kept.size(), 1u);
  for (const std::string& id : kept) {
    ASSERT_NO_THROW(store.remove(store.find(id).value())) << id;
    EXPECT_FALSE(store.find(id));
  }
  EXPECT_TRUE(store.probe());
  EXPECT_FALSE(store.trouble());
  complete(store, "again", 60'000);
}

TEST_F(FullDisk, ReferencesThatFindNoSpaceLeaveNothing) {
  JobStore store(folder());
  Job job = small_job("job_of_pictures");
  for (const size_t bytes : {100'000, 1'000'000}) {
    job.order.references.push_back(std::make_shared<const std::string>(bytes, 'x'));
    job.order.record.request.images.push_back({.sha256 = std::string(64, 'a'), .size = {64, 64}});
  }
  fill(300'000);
  EXPECT_THROW(store.insert(job), StorageError);
  EXPECT_TRUE(store.trouble());
  EXPECT_FALSE(store.find(job.id));
  EXPECT_TRUE(fs::is_empty(folder() / "references"));
  make_space();
  EXPECT_TRUE(store.probe());
  store.insert(job);
  EXPECT_EQ(store.read_reference(job.id, 1).size(), 1'000'000u);
}

// All is forgotten, and what fills the disk is the log of changes itself.
TEST_F(FullDisk, ALogOfChangesThatFillsItIsShortened) {
  mount_disk("600k");
  JobStore store(folder());
  Ids kept;
  try {
    for (int i = 0; i < 1000; ++i) {
      const std::string id = std::to_string(i);
      store.insert(small_job(id));
      store.set_running(id);
      kept.push_back(id);
    }
    FAIL() << "the disk is not small";
  } catch (const StorageError&) {
  }
  fill();
  for (const std::string& id : kept) {
    store.set_ended(id, JobStatus::failed, "no memory");
    ASSERT_NO_THROW(store.remove(store.find(id).value())) << id;
  }
  make_space();
  EXPECT_TRUE(store.probe()) << store.trouble().value_or("");
  EXPECT_FALSE(store.trouble());
}

TEST_F(FullDisk, TheReserveServesWhatWasPromised) {
  JobStore store(folder());
  for (const char* id : {"picture", "waits", "runs"}) store.insert(small_job(id));
  complete(store, "old");
  store.set_running("runs");
  fill();
  EXPECT_THROW(store.insert(small_job("new")), StorageError);
  EXPECT_FALSE(store.find("new"));
  store.set_ended("waits", JobStatus::cancelled, "cancelled while it waited");
  store.set_queued("runs");
  store.remove(store.find("old").value());
  // Not only in memory.
  Database other(folder() / "jobs.sqlite");
  Statement rows(other.handle(),
                 "SELECT group_concat(id || ' ' || status, ', ') FROM (SELECT * FROM jobs ORDER BY id)");
  rows.step();
  EXPECT_EQ(rows.text(0), "picture queued, runs queued, waits cancelled");
}

TEST_F(FullDisk, WithoutTheReserveThePicturesGoFirst) {
  JobStore store(folder());
  for (const char* id : {"a", "b"}) complete(store, id, 200'000);
  fill(0, true);
  store.remove(store.find("a").value());
  EXPECT_FALSE(store.find("a"));
  EXPECT_TRUE(store.find("b"));
  EXPECT_EQ(store.use().bytes, 200'000u);
}

TEST_F(FullDisk, AnEndThatCannotBeWrittenIsToldAndWrittenLater) {
  {
    JobStore store(folder());
    for (const char* id : {"a", "b"}) store.insert(small_job(id));
    fill(0, true);
    store.set_ended("a", JobStatus::failed, "no memory");
    EXPECT_EQ(store.find("a")->status, JobStatus::failed);
    EXPECT_EQ(store.find("a")->error, "no memory");
    EXPECT_EQ(store.queued().size(), 1u);
    EXPECT_FALSE(store.probe());
    make_space();
    EXPECT_TRUE(store.probe());
    EXPECT_EQ(store.use().entries, 1);
  }
  EXPECT_EQ(JobStore(folder()).find("a")->error, "no memory");
}

TEST_F(FullDisk, IsFoundOutBeforeAnythingFails) {
  JobStore store(folder());
  EXPECT_FALSE(store.probe());
  EXPECT_FALSE(store.trouble());
  fill();
  EXPECT_FALSE(store.probe());
  EXPECT_TRUE(store.trouble());
  make_space();
  EXPECT_TRUE(store.probe());
  EXPECT_FALSE(store.trouble());
}

// Nothing of it is a full disk, and drawing again and again for it would be as useless.
TEST_F(FullDisk, AFolderThatIsGoneIsToldAndTriedAgain) {
  JobStore store(folder());
  fs::rename(folder() / "images", folder() / "elsewhere");
  const JobImage image{.id = "img_b", .bytes = 3};
  EXPECT_THROW(store.write_image(image, std::vector<uint8_t>(3), Survives::process), StorageError);
  EXPECT_FALSE(store.probe());
  EXPECT_EQ(store.trouble().value().find('/'), std::string::npos) << *store.trouble();
  fs::rename(folder() / "elsewhere", folder() / "images");
  EXPECT_TRUE(store.probe());
}

TEST_F(FullDisk, AServerStartsOnItServesAndDrawsWhenThereIsSpace) {
  {
    JobStore store(folder());
    complete(store, "old", 100'000);
    for (const char* id : {"ran", "waited"}) store.insert(small_job(id));
    store.insert(small_job("attached", true));
    store.set_running("ran");
  }
  fill(0, true);
  JobStore store(folder());
  EXPECT_TRUE(store.trouble());
  EXPECT_EQ(store.find("old")->status, JobStatus::completed);
  EXPECT_EQ(store.list(9, "", {}).size(), 4u);
  Metrics metrics;
  JobService service(store, metrics, 64);
  try {
    service.submit(small_job("new"));
    FAIL() << "accepted";
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 507);
  }
  EXPECT_THROW(service.cancel("waited"), ApiError);
  EXPECT_TRUE(service.forget("old"));
  const Housekeeper housekeeper(store, service, metrics);
  std::thread worker([&] { service.run({black, one_at_once}); });
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(service.is_drawing());
  make_space();
  for (const char* id : {"ran", "waited"}) wait_until([&] { return store.find(id)->status == JobStatus::completed; });
  EXPECT_EQ(store.find("attached")->status, JobStatus::cancelled);
  EXPECT_NO_THROW(service.submit(small_job("new")));
  service.stop(60s);
  worker.join();
}

// The look that finds space again is one alone; if jobs cannot be read then, they are taken up by a later look.
TEST_F(FullDisk, JobsThatCannotBeTakenUpAtOnceAreLater) {
  {
    JobStore store(folder());
    for (const char* id : {"a", "damaged"}) store.insert(small_job(id));
    store.set_running("a");  // so that there is something to recover
  }
  Database(folder() / "jobs.sqlite").execute("UPDATE jobs SET record = 'x' WHERE id = 'damaged'");
  fill(0, true);
  JobStore store(folder());
  Metrics metrics;
  JobService service(store, metrics, 64);
  const Housekeeper housekeeper(store, service, metrics);
  make_space();
  wait_until([&] { return !store.trouble(); });
  std::this_thread::sleep_for(50ms);  // the look that found space fails meanwhile
  store.remove(small_job("damaged"));
  std::thread worker([&] { service.run({black, one_at_once}); });
  wait_until([&] { return store.find("a")->status == JobStatus::completed; });
  service.stop(60s);
  worker.join();
}

/// The service with jobs that wait, whose drawing may do something first.
class FullDiskDrawing : public FullDisk {
 protected:
  void start(Ids ids, std::function<void()> before, bool attached = false) {
    store_ = std::make_unique<JobStore>(folder());
    for (const std::string& id : ids) store_->insert(small_job(id, attached));
    service_ = std::make_unique<JobService>(*store_, metrics_, 64);
    const auto draw = [this, before](std::span<const GenerationRequest> requests, std::span<const Progress> progress,
                                     const Lane&, const LaneChange&) {
      ++drawn_;
      if (before) before();
      return black(requests, progress);
    };
    worker_ = std::thread([this, draw] { service_->run({draw, [](const GenerationRequest&) { return int64_t{8}; }}); });
  }
  void TearDown() override {
    if (worker_.joinable()) {
      service_->stop(0ms);
      worker_.join();
    }
    service_.reset();
    store_.reset();
    FullDisk::TearDown();
  }

  Metrics metrics_;
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<JobService> service_;
  std::atomic<int> drawn_{0};
  std::thread worker_;
};

TEST_F(FullDiskDrawing, WhatIsDrawnMeanwhileWaitsInItsPlaceAndIsDrawnAgain) {
  start({"a", "b", "c"}, [&] {
    if (drawn_ == 1) fill();
  });
  wait_until([&] { return drawn_ == 1 && !service_->is_drawing(); });
  for (const char* id : {"a", "b", "c"}) {
    EXPECT_EQ(store_->find(id)->status, JobStatus::queued) << id;
    EXPECT_EQ(store_->find(id)->attempts, 0) << id;
    const std::string shown = service_->describe(id).value().dump();
    EXPECT_NE(shown.find(R"("status":"queued")"), std::string::npos) << shown;
    EXPECT_NE(shown.find(fmt::format(R"("position":{})", id[0] - 'a')), std::string::npos) << shown;
  }
  EXPECT_TRUE(fs::is_empty(folder() / "images"));
  EXPECT_THROW(service_->submit(small_job("d")), ApiError);
  EXPECT_EQ(service_->cancel("b")->status, JobStatus::cancelled);
  EXPECT_FALSE(store_->probe());
  make_space();
  ASSERT_TRUE(store_->probe());
  service_->take_up();
  for (const char* id : {"a", "c"}) wait_until([&] { return store_->find(id)->status == JobStatus::completed; });
  EXPECT_EQ(drawn_, 2);
}

TEST_F(FullDiskDrawing, AClientThatWaitsIsToldAtOnce) {
  std::atomic<bool> told = false;
  std::promise<void> watched;
  start(
      {"a"},
      [&] {
        watched.get_future().wait();
        fill();
      },
      true);
  service_->watch("a", {.tell = [&](const JobEvent& event) { told = told || event.name == "done"; }});
  watched.set_value();
  wait_until([&] { return told.load(); });
  EXPECT_EQ(store_->find("a")->status, JobStatus::failed);
  EXPECT_NE(store_->find("a")->error.find("no space"), std::string::npos) << store_->find("a")->error;
  EXPECT_TRUE(store_->trouble());
}

// The picture's file has its space, and the words that it is there have none.
TEST_F(FullDiskDrawing, AtTheDatabasesCommitThePictureIsRemovedAndDrawnAgain) {
  start({"a"}, [&] {
    if (drawn_ == 1) fill(8192, true);
  });
  wait_until([&] { return drawn_ == 1 && !service_->is_drawing(); });
  EXPECT_TRUE(store_->trouble());
  EXPECT_TRUE(fs::is_empty(folder() / "images"));
  make_space();
  ASSERT_TRUE(store_->probe());
  service_->take_up();
  wait_until([&] { return store_->find("a")->status == JobStatus::completed; });
  EXPECT_TRUE(fs::exists(store_->image_file(store_->find("a")->images.at(0))));
}

TEST_F(FullDiskDrawing, AStopWhileItIsFullLosesNothing) {
  start({"a", "b"}, [&] {
    if (drawn_ == 1) fill(0, true);
  });
  wait_until([&] { return drawn_ == 1 && !service_->is_drawing(); });
  service_->stop(0ms);
  worker_.join();
  service_.reset();
  store_.reset();
  make_space();
  JobStore store(folder());
  EXPECT_EQ(store.queued().size(), 2u);
}

// Where less than a job's pictures need has become free, it is not drawn for nothing.
TEST_F(FullDiskDrawing, NothingIsDrawnBeforeThereIsSpaceForIt) {
  store_ = std::make_unique<JobStore>(folder());
  const uint64_t usual = fs::file_size(folder() / "reserve");
  const JobImage image{.id = "img_1", .bytes = 2'000'000};
  store_->remove_images({&image, 1}, 2'000'000);
  fill(usual + 500'000);
  EXPECT_FALSE(store_->probe());
  EXPECT_TRUE(store_->trouble());
  make_space();
  EXPECT_TRUE(store_->probe());
}

}  // namespace
}  // namespace nostos::server
