// Tests which jobs the service has drawn together, and what becomes of them, with an engine that draws nothing.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/database.h"
#include "base/error.h"
#include "server_jobs_case.h"

namespace nostos::server {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

class ServerJobs : public testing::Test {
 protected:
  ServerJobs() : store_(folder_.path()) {}

  /// A job that waits; the service takes it up when it is made.
  void wait(const std::string& id, int64_t width = 64, int64_t steps = 2, int64_t outputs = 1, bool attached = false) {
    Job made = small_job(id, attached);
    GenerationRequest& request = made.order.record.request;
    request.width = width;
    request.num_inference_steps = steps;
    request.num_outputs = outputs;
    store_.insert(made);
  }

  /// Draws all that waits. \return the prompts that each turn drew together
  std::vector<std::vector<std::string>> draw_all(const EngineCalls& engine) {
    JobService service(store_, metrics_, 64);
    std::vector<std::vector<std::string>> turns;
    const EngineCalls noted{[&](std::span<const GenerationRequest> requests, std::span<const Progress> progress,
                                const Lane&, const LaneChange&) {
                              std::vector<std::string>& prompts = turns.emplace_back();
                              for (const GenerationRequest& request : requests) prompts.push_back(request.prompt);
                              return engine.draw(requests, progress, {}, {});
                            },
                            engine.pictures_at_once};
    std::thread worker([&] { service.run(noted); });
    while (service.waiting() > 0 || service.is_drawing()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    service.stop(std::chrono::milliseconds(0));
    worker.join();
    return turns;
  }

  JobStatus status(const std::string& id) { return store_.find(id)->status; }

  /// Has the store refuse to give a job that status, as with a full disk, or no longer.
  void set_refused(JobStatus status, bool refused) {
    Database database(folder_.path() / "jobs.sqlite");
    const std::string trigger = fmt::format("refuse_{}", name(status));
    database.execute((refused ? fmt::format("CREATE TRIGGER {} BEFORE UPDATE ON jobs WHEN NEW.status = '{}' BEGIN "
                                            "SELECT RAISE(ABORT, 'the disk is full'); END",
                                            trigger, name(status))
                              : fmt::format("DROP TRIGGER {}", trigger))
                         .c_str());
  }

  TemporaryFolder folder_;
  JobStore store_;
  Metrics metrics_;
};

using Turns = std::vector<std::vector<std::string>>;

TEST_F(ServerJobs, OneSizeAndStepsAreDrawnTogetherAsFarAsThereIsRoom) {
  wait("a");
  wait("wider", 96);
  wait("b");
  wait("longer", 64, 3);
  wait("three", 64, 2, 3);
  wait("c");
  wait("d");
  const Turns turns = draw_all({black, [](const GenerationRequest&) { return int64_t{3}; }});
  EXPECT_EQ(turns, (Turns{{"a", "b", "c"}, {"wider"}, {"longer"}, {"three"}, {"d"}}));
  for (const char* id : {"a", "b", "c", "d", "wider", "longer", "three"})
    EXPECT_EQ(status(id), JobStatus::completed) << id;
}

TEST_F(ServerJobs, SizesThatAreDrawnAlikeAreDrawnTogether) {
  for (const auto& [id, width] : {std::pair{"a", 64}, {"cropped", 50}, {"wider", 65}, {"narrower", 48}})
    wait(id, width);
  const Turns turns = draw_all({black, [](const GenerationRequest&) { return int64_t{8}; }});
  EXPECT_EQ(turns, (Turns{{"a", "cropped"}, {"wider"}, {"narrower"}}));
}

TEST_F(ServerJobs, WhatFailsTogetherIsTriedAlone) {
  for (const char* id : {"a", "bad", "b"}) wait(id);
  const auto draw = [](std::span<const GenerationRequest> requests, std::span<const Progress> progress, const Lane&,
                       const LaneChange&) {
    for (const GenerationRequest& request : requests)
      if (request.prompt == "bad") fail(ErrorKind::out_of_memory, "no memory for it");
    return black(requests, progress);
  };
  const Turns turns = draw_all({draw, [](const GenerationRequest&) { return int64_t{8}; }});
  EXPECT_EQ(turns, (Turns{{"a", "bad", "b"}, {"a"}, {"bad"}, {"b"}}));
  EXPECT_EQ(status("a"), JobStatus::completed);
  EXPECT_EQ(status("b"), JobStatus::completed);
  EXPECT_EQ(status("bad"), JobStatus::failed);
  EXPECT_EQ(store_.find("bad")->error, "no memory for it");
  for (const char* id : {"a", "bad", "b"}) EXPECT_EQ(store_.find(id)->attempts, 1) << id;
}

TEST_F(ServerJobs, OneThatCannotBeCancelledIsStillDrawn) {
  wait("a");
  JobService service(store_, metrics_, 64);
  set_refused(JobStatus::cancelled, true);
  EXPECT_THROW(service.cancel("a"), Error);
  set_refused(JobStatus::cancelled, false);
  EXPECT_EQ(service.waiting(), 1u);
  std::thread worker([&] { service.run({black, [](const GenerationRequest&) { return int64_t{1}; }}); });
  while (service.waiting() > 0 || service.is_drawing()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  service.stop(std::chrono::milliseconds(0));
  worker.join();
  EXPECT_EQ(status("a"), JobStatus::completed);
}

// Without it stop(), and with it the end of the process, would wait for a job that nobody draws.
TEST_F(ServerJobs, AStoreThatFailsWhileTheServiceStopsEndsBoth) {
  wait("a");
  JobService service(store_, metrics_, 64);
  const auto draw = [&](std::span<const GenerationRequest>, std::span<const Progress> progress, const Lane&,
                        const LaneChange&) -> std::vector<Generation> {
    while (!*progress.front().cancel) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    set_refused(JobStatus::queued, true);
    fail(ErrorKind::cancelled, "cancelled");
  };
  std::string error;
  std::thread worker([&] {
    try {
      service.run({draw, [](const GenerationRequest&) { return int64_t{1}; }});
    } catch (const Error& thrown) {
      error = thrown.what();
    }
  });
  while (!service.is_drawing()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  service.stop(std::chrono::milliseconds(0));
  worker.join();
  EXPECT_NE(error.find("the disk is full"), std::string::npos) << error;
}

TEST_F(ServerJobs, AWaitingClientsJobThatCannotBeCancelledKeepsNoServerFromItsEnd) {
  wait("a", 64, 2, 1, true);
  JobService service(store_, metrics_, 64);
  set_refused(JobStatus::cancelled, true);
  EXPECT_NO_THROW(service.stop(std::chrono::milliseconds(0)));
  EXPECT_EQ(status("a"), JobStatus::queued);
}

// Its end is in the store, and those who watch it do not know yet, while the others' files are written.
TEST_F(ServerJobs, OneThatIsForgottenAtItsEndIsDoneToThoseWhoWatch) {
  wait("a", 512);  // of the other's size, so that both are drawn together
  wait("slow", 512, 2, 60);
  JobService service(store_, metrics_, 64);
  std::vector<std::string> told;
  ASSERT_NE(service.watch("a", {.tell = [&](const JobEvent& event) { told.push_back(event.name); }}), 0u);
  EXPECT_THROW(service.forget("a"), ApiError);
  std::thread worker([&] { service.run({black, [](const GenerationRequest&) { return int64_t{64}; }}); });
  while (status("a") != JobStatus::completed) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(service.is_drawing());
  EXPECT_TRUE(service.forget("a"));
  service.stop(std::chrono::seconds(60));
  worker.join();
  EXPECT_EQ(told.back(), "done");
  EXPECT_FALSE(service.forget("a"));
  EXPECT_EQ(status("slow"), JobStatus::completed);
}

// Between a place in the queue and the queue itself the server may stop, which nobody draws for any more.
TEST_F(ServerJobs, AWaitingClientsJobThatComesAsTheServerStopsIsCancelled) {
  JobService service(store_, metrics_, 64);
  Database disk(folder_.path() / "jobs.sqlite");
  disk.execute("BEGIN IMMEDIATE");  // the job waits on its way into the store
  std::thread client([&] { EXPECT_NO_THROW(service.submit(small_job("late", true))); });
  std::this_thread::sleep_for(500ms);
  service.stop(0ms);
  disk.execute("ROLLBACK");
  client.join();
  EXPECT_EQ(status("late"), JobStatus::cancelled);
  EXPECT_EQ(service.waiting(), 0u);
}

// Jobs that are drawn together share one drawing, whose stages are timed once.
TEST_F(ServerJobs, StagesAreCountedOnceADrawing) {
  wait("a");
  wait("b");
  const auto draw = [](std::span<const GenerationRequest> requests, std::span<const Progress> progress, const Lane&,
                       const LaneChange&) {
    std::vector<Generation> made = black(requests, progress);
    for (Generation& each : made) each.report.stages = {{"denoise", 5}};
    return made;
  };
  EXPECT_EQ(draw_all({draw, [](const GenerationRequest&) { return int64_t{8}; }}).size(), 1u);
  EXPECT_NE(metrics_.text({}).find("nostos_stage_seconds_count{stage=\"denoise\"} 1\n"), std::string::npos)
      << metrics_.text({});
}

TEST_F(ServerJobs, OneThatCannotBeCompletedLeavesNoPictures) {
  wait("a", 64, 2, 3);
  Database(folder_.path() / "jobs.sqlite")
      .execute("CREATE TRIGGER refuse_images BEFORE INSERT ON images BEGIN SELECT RAISE(ABORT, 'refused'); END");
  draw_all({black, one_at_once});
  EXPECT_EQ(status("a"), JobStatus::failed);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path() / "images"));
}

// Another client's commit may take the disk as long as it likes: steps go on.
TEST_F(ServerJobs, TheThreadThatDrawsWaitsForNoDiskBetweenItsSteps) {
  for (const char* id : {"a", "b", "ended"}) wait(id);
  store_.set_ended("ended", JobStatus::failed, "");
  JobService service(store_, metrics_, 64);
  std::vector<std::thread> others;
  steady_clock::duration longest{};
  const auto draw = [&](std::span<const GenerationRequest> requests, std::span<const Progress> progress, const Lane&,
                        const LaneChange&) {
    if (requests.front().prompt != "a") return black(requests, progress);
    Database disk(folder_.path() / "jobs.sqlite");
    disk.execute("BEGIN IMMEDIATE");  // who writes to the store now waits, and whoever else wants it
    std::atomic<size_t> begun = 0;
    const auto begin = [&](std::function<void()> work) {
      others.emplace_back([&begun, work = std::move(work)] {
        ++begun;
        EXPECT_NO_THROW(work());
      });
    };
    begin([&] { service.submit(small_job("new")); });
    std::this_thread::sleep_for(100ms);
    begin([&] { service.cancel("b"); });
    begin([&] { service.cancel("ended"); });
    begin([&] { service.describe("a"); });
    begin([&] { service.describe_running(); });
    begin([&] { service.watch("ended", {.tell = [](const JobEvent&) {}}); });
    begin([&] { service.forget("ended"); });
    while (begun < 7) std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(100ms);
    for (int64_t step = 1; step <= 2; ++step) {
      const auto start = steady_clock::now();
      progress.front().on_stage("denoise");
      progress.front().on_step(step, 2, 1.0);
      progress.front().wants_preview({.picture = 0, .step = step});
      longest = std::max(longest, steady_clock::now() - start);
    }
    disk.execute("ROLLBACK");
    for (std::thread& other : others) other.join();
    return black(requests, progress);
  };
  std::thread worker([&] { service.run({draw, one_at_once}); });
  wait_until([&] { return service.waiting() == 0 && !service.is_drawing(); });
  service.stop(0ms);
  worker.join();
  EXPECT_LT(longest, 1s);
  EXPECT_EQ(status("a"), JobStatus::completed);
  EXPECT_EQ(status("b"), JobStatus::cancelled);
  EXPECT_EQ(status("new"), JobStatus::completed);
}

TEST_F(ServerJobs, OneThatLeavesIsCancelledAlone) {
  for (const char* id : {"a", "leaver"}) wait(id);
  const auto draw = [](std::span<const GenerationRequest> requests, std::span<const Progress> progress, const Lane&,
                       const LaneChange&) {
    std::vector<Generation> made = black(requests, progress);
    for (size_t i = 0; i < requests.size(); ++i) made[i].cancelled = requests[i].prompt == "leaver";
    return made;
  };
  draw_all({draw, [](const GenerationRequest&) { return int64_t{8}; }});
  EXPECT_EQ(status("a"), JobStatus::completed);
  EXPECT_EQ(status("leaver"), JobStatus::cancelled);
}

// What an earlier model took may be too large for this one: such a job fails, and the server goes on.
TEST_F(ServerJobs, ARequestThatTheModelRefusesFailsAlone) {
  wait("refused", 96);
  wait("a");
  const auto refuse = [](const GenerationRequest& request) {
    require(*request.width == 64, ErrorKind::invalid_input, "width {} is refused", *request.width);
  };
  const auto draw = [&](std::span<const GenerationRequest> requests, std::span<const Progress> progress, const Lane&,
                        const LaneChange&) {
    for (const GenerationRequest& request : requests) refuse(request);
    return black(requests, progress);
  };
  draw_all({draw, [&](const GenerationRequest& request) {
              refuse(request);
              return int64_t{8};
            }});
  EXPECT_EQ(status("refused"), JobStatus::failed);
  EXPECT_EQ(store_.find("refused")->error, "width 96 is refused");
  EXPECT_EQ(status("a"), JobStatus::completed);
}

// A device that is lost fails every job after it: the server ends, and those that wait are drawn when it is started
// again.
TEST_F(ServerJobs, ALostDeviceEndsTheServiceAndLeavesTheOthersWaiting) {
  for (const char* id : {"a", "b"}) wait(id);
  wait("wider", 96);
  const auto draw = [](std::span<const GenerationRequest>, std::span<const Progress>, const Lane&,
                       const LaneChange&) -> std::vector<Generation> {
    fail(ErrorKind::device_lost, "the device is lost");
  };
  JobService service(store_, metrics_, 64);
  try {
    service.run({draw, [](const GenerationRequest&) { return int64_t{8}; }});
    FAIL() << "the service goes on";
  } catch (const Error& error) {
    EXPECT_EQ(exit_code(error.kind()), 1);
  }
  EXPECT_EQ(status("a"), JobStatus::failed);
  EXPECT_EQ(status("b"), JobStatus::failed);
  EXPECT_EQ(status("wider"), JobStatus::queued);
}

}  // namespace
}  // namespace nostos::server
