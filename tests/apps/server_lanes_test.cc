// Tests lanes of a server: which places draw which job, how they change, what becomes of jobs whose places are lost.
#include <gtest/gtest.h>

#include <future>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "base/error.h"
#include "server_jobs_case.h"

namespace nostos::server {
namespace {

using namespace std::chrono_literals;
using Places = std::vector<int>;

/// An engine that draws black on places, each of which may have one drawing. A test is asked before each step.
class FakeEngine {
 public:
  explicit FakeEngine(int places) {
    calls.places = places;
    calls.draw = [this](std::span<const GenerationRequest> requests, std::span<const Progress> progress,
                        const Lane& lane, const LaneChange& change) { return draw(requests, progress, lane, change); };
    calls.pictures_at_once = one_at_once;
    calls.work = [](const GenerationRequest& request) -> scheduling::Work {
      return {.rows = 4160, .steps = *request.num_inference_steps};
    };
    calls.lost_places = [this] {
      const std::lock_guard lock(mutex_);
      return Places(lost_.begin(), lost_.end());
    };
  }

  /// The GPU of a place is lost; a drawing on it fails at its next step.
  void lose(int place) {
    const std::lock_guard lock(mutex_);
    lost_.insert(place);
  }

  /// \return the places that drew each job, one entry a change and attempt, as "a: 0 1".
  std::vector<std::string> drawn() const {
    const std::lock_guard lock(mutex_);
    return drawn_;
  }

  EngineCalls calls;
  std::function<void(const std::string& job, int64_t step, const Lane& lane)> before_step = [](auto&&...) {};

 private:
  std::vector<Generation> draw(std::span<const GenerationRequest> requests, std::span<const Progress> progress,
                               Lane lane, const LaneChange& change) {
    const std::string job = requests.front().prompt;
    begin(job, {}, lane);
    try {
      const int64_t steps = *requests.front().num_inference_steps;
      for (int64_t step = 0; step < steps; ++step) {
        if (change.next) {
          const Lane next = change.next({.lane = lane, .steps_done = step, .steps = steps});
          if (next != lane) {
            begin(job, lane, next);
            leave(lane, next);
            lane = next;
            change.changed(lane);
          }
        }
        before_step(job, step, lane);
        require(!*progress.front().cancel, ErrorKind::cancelled, "cancelled");
        const std::lock_guard lock(mutex_);
        for (const int place : lane.places)
          require(!lost_.contains(place), ErrorKind::device_lost, "place {} is lost", place);
      }
    } catch (...) {
      leave(lane, {});
      throw;
    }
    leave(lane, {});
    return black(requests, progress);
  }

  void begin(const std::string& job, const Lane& before, const Lane& lane) {
    const std::lock_guard lock(mutex_);
    std::string& noted = drawn_.emplace_back(job + ":");
    for (const int place : lane.places) {
      noted += fmt::format(" {}", place);
      if (std::ranges::find(before.places, place) != before.places.end()) continue;
      EXPECT_FALSE(lost_.contains(place)) << "a lost place is dealt again: " << noted;
      EXPECT_TRUE(taken_.insert(place).second) << "two draw on one place: " << noted;
    }
  }

  void leave(const Lane& before, const Lane& lane) {
    const std::lock_guard lock(mutex_);
    for (const int place : before.places)
      if (std::ranges::find(lane.places, place) == lane.places.end()) taken_.erase(place);
  }

  mutable std::mutex mutex_;
  std::set<int> taken_;
  std::set<int> lost_;
  std::vector<std::string> drawn_;
};

class ServerLanes : public testing::Test {
 protected:
  ServerLanes() : store_(folder_.path()), service_(store_, metrics_, 64) {}
  ~ServerLanes() override { stop(); }

  void submit(const std::string& id, int64_t steps = 2, bool attached = false) {
    Job job = small_job(id, attached);
    job.order.record.request.num_inference_steps = steps;
    service_.submit(job);
  }
  void start(FakeEngine& engine) {
    worker_ = std::async(std::launch::async, [&] { service_.run(engine.calls); });
  }
  void stop(std::chrono::milliseconds grace = 60s) {
    service_.stop(grace);
    if (worker_.valid()) worker_.wait();
  }
  void wait_for_end(const std::string& id) {
    wait_until([&] { return has_ended(store_.find(id)->status); });
  }
  JobStatus status(const std::string& id) { return store_.find(id)->status; }
  Places places_of(const std::string& id) { return service_.describe(id)->at("progress").at("places").get<Places>(); }

  TemporaryFolder folder_;
  JobStore store_;
  Metrics metrics_;
  JobService service_;
  std::future<void> worker_;
};

TEST_F(ServerLanes, JobsAreDrawnBesideOneAnother) {
  FakeEngine engine(2);
  std::atomic<int> together = 0;
  engine.before_step = [&](const std::string&, int64_t step, const Lane&) {
    if (step > 0) return;
    ++together;
    wait_until([&] { return together == 2; });
  };
  submit("a");
  submit("b");
  start(engine);
  for (const char* id : {"a", "b"}) wait_for_end(id);
  std::vector<std::string> drawn = engine.drawn();
  drawn.resize(2);
  EXPECT_EQ(std::set(drawn.begin(), drawn.end()), (std::set<std::string>{"a: 0", "b: 1"}));
  EXPECT_EQ(status("a"), JobStatus::completed);
  EXPECT_EQ(status("b"), JobStatus::completed);
}

TEST_F(ServerLanes, ALaneGivesAPlaceToTheNextJobAndGetsItBack) {
  FakeEngine engine(2);
  std::promise<void> there, ended;
  engine.before_step = [&](const std::string& job, int64_t step, const Lane& lane) {
    if (job != "long") return;
    if (step == 0) {
      EXPECT_EQ(places_of("long"), (Places{0, 1}));
      there.set_value();
      wait_until([&] { return service_.waiting() == 1; });
    } else if (step == 1) {
      EXPECT_EQ(places_of("long"), lane.places);
      EXPECT_EQ(lane.places, Places{0});
      ended.get_future().wait();
    }
  };
  submit("long", 40);
  start(engine);
  there.get_future().wait();
  submit("short");
  wait_for_end("short");
  wait_until([&] { return service_.places().lanes == 1; });
  ended.set_value();
  wait_for_end("long");
  EXPECT_EQ(engine.drawn(), (std::vector<std::string>{"long: 0 1", "long: 0", "short: 1", "long: 0 1"}));
  EXPECT_EQ(service_.places().lost, 0);
  const std::string metrics = metrics_.text({});
  EXPECT_NE(metrics.find("nostos_lane_changes_total 2"), std::string::npos) << metrics;
  EXPECT_NE(metrics.find("nostos_lanes_total{places=\"2\"} 1"), std::string::npos) << metrics;
}

TEST_F(ServerLanes, AJobWhosePlaceIsLostIsDrawnElsewhere) {
  FakeEngine engine(2);
  std::atomic<bool> is_lost = false, both_draw = false;
  engine.before_step = [&](const std::string& job, int64_t step, const Lane&) {
    if (job == "other") {
      both_draw = true;
      wait_until([&] { return is_lost.load(); });
    }
    wait_until([&] { return both_draw.load(); });
    if (job != "unlucky" || step != 1 || is_lost) return;
    engine.lose(0);
    is_lost = true;
  };
  submit("unlucky", 2, true);
  submit("other");
  start(engine);
  for (const char* id : {"unlucky", "other"}) wait_for_end(id);
  EXPECT_EQ(status("unlucky"), JobStatus::completed);
  EXPECT_EQ(status("other"), JobStatus::completed);
  EXPECT_EQ(engine.drawn().back(), "unlucky: 1");
  EXPECT_EQ(service_.places().lost, 1);
  EXPECT_EQ(service_.places().places, 2);
}

TEST_F(ServerLanes, AJobThatLosesPlacesTwiceFails) {
  FakeEngine engine(3);
  engine.before_step = [&](const std::string& job, int64_t, const Lane& lane) {
    if (job == "bad") engine.lose(lane.places.front());
  };
  submit("bad");
  start(engine);
  wait_for_end("bad");
  submit("good");
  wait_for_end("good");
  EXPECT_EQ(status("bad"), JobStatus::failed);
  EXPECT_NE(store_.find("bad")->error.find("is lost"), std::string::npos);
  EXPECT_EQ(status("good"), JobStatus::completed);
  EXPECT_EQ(engine.drawn(), (std::vector<std::string>{"bad: 0 1 2", "bad: 1 2", "good: 2"}));
}

TEST_F(ServerLanes, WithoutAPlaceTheServerEnds) {
  FakeEngine engine(2);
  engine.before_step = [&](const std::string&, int64_t, const Lane&) {
    engine.lose(0);
    engine.lose(1);
  };
  submit("a");
  start(engine);
  EXPECT_THROW(worker_.get(), Error);
  EXPECT_EQ(status("a"), JobStatus::failed);
}

// A peer that fails with its device unharmed may be anywhere in its work: nothing that is tried next can be trusted.
TEST_F(ServerLanes, WhatEndsOneLaneEndsAllAndTheirJobsWait) {
  FakeEngine engine(2);
  std::promise<void> draws;
  engine.before_step = [&](const std::string& job, int64_t step, const Lane&) {
    if (job == "other") {
      if (step == 0) draws.set_value();
      std::this_thread::sleep_for(1ms);
      return;
    }
    draws.get_future().wait();
    fail(ErrorKind::peer_failed, "a rank is gone");
  };
  submit("other", 1000);
  submit("bad");
  start(engine);
  EXPECT_THROW(worker_.get(), Error);
  EXPECT_EQ(status("bad"), JobStatus::failed);
  EXPECT_EQ(status("other"), JobStatus::queued);
}

TEST_F(ServerLanes, ManyJobsWithCancelsEndOnceEach) {
  FakeEngine engine(4);
  engine.calls.policy = scheduling::Policy::automatic;
  engine.before_step = [](auto&&...) { std::this_thread::sleep_for(1ms); };
  start(engine);
  std::mt19937 random(7);
  std::vector<std::string> ids;
  for (int i = 0; i < 60; ++i) {
    ids.push_back(fmt::format("job{}", i));
    submit(ids.back(), 1 + static_cast<int64_t>(random() % 12));
    if (random() % 3 == 0) service_.cancel(ids[random() % ids.size()]);
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 4));
  }
  for (const std::string& id : ids) wait_for_end(id);
  wait_until([&] { return service_.places().lanes == 0; });
  EXPECT_EQ(service_.places().busy, 0);
  for (const std::string& id : ids) {
    EXPECT_TRUE(status(id) == JobStatus::completed || status(id) == JobStatus::cancelled) << id;
    EXPECT_LE(store_.find(id)->attempts, 1) << id;
  }
}

TEST_F(ServerLanes, StoppingPutsBackWhatIsDrawn) {
  FakeEngine engine(2);
  std::atomic<int> begun = 0;
  engine.before_step = [&](const std::string&, int64_t step, const Lane&) {
    if (step == 0) ++begun;
    std::this_thread::sleep_for(1ms);
  };
  submit("a", 1000);
  submit("b", 1000);
  start(engine);
  wait_until([&] { return begun == 2; });
  stop(10ms);
  EXPECT_EQ(status("a"), JobStatus::queued);
  EXPECT_EQ(status("b"), JobStatus::queued);
}

}  // namespace
}  // namespace nostos::server
