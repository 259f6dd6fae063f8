// Owns drawings on lanes that change at random, for tests that compare them with those of one rank.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pipeline/beach_request.h"
#include "pipeline/drawing_device.h"
#include "pipeline/engine.h"
#include "pipeline/precisions.h"
#include "pipeline/tiny_families.h"

namespace nostos::lanes {

inline constexpr int kPlaces = 4;

inline EngineOptions options(const std::filesystem::path& model, Precision precision = Precision::f32,
                             parallel::PlanKind plan = parallel::PlanKind::token, int places = kPlaces) {
  EngineOptions made;
  made.model = model;
  made.device = drawing_device();
  set_precision(made, precision);
  made.parallelism = {.ulysses = places, .plan = plan};
  made.threads = 2;
  made.lanes = true;
  return made;
}

inline GenerationRequest request(int64_t height, int64_t width, double guidance, int64_t steps = 6) {
  return beach_request(height, width, guidance, steps);
}

inline void expect_same(const Generation& wanted, const Generation& got, const std::string& what) {
  ASSERT_EQ(wanted.pictures.size(), got.pictures.size()) << what;
  for (size_t i = 0; i < wanted.pictures.size(); ++i) {
    const Picture &a = wanted.pictures[i], &b = got.pictures[i];
    ASSERT_EQ(a.latents.shape(), b.latents.shape()) << what;
    EXPECT_EQ(std::memcmp(a.latents.data<float>(), b.latents.data<float>(), a.latents.size_in_bytes()), 0)
        << what << ": latents of picture " << i << " differ";
    EXPECT_EQ(a.image, b.image) << what << ": pixels of picture " << i << " differ";
  }
}

/// Lanes at random: another one, in another order, at every step.
class Walk {
 public:
  Walk(uint32_t seed, int places, bool may_halve)
      : random_(seed), all_(static_cast<size_t>(places)), may_halve_(may_halve) {
    std::iota(all_.begin(), all_.end(), 0);
  }

  Lane next() {
    Lane lane = last_;
    while (lane == last_) {
      std::ranges::shuffle(all_, random_);
      lane.places.assign(all_.begin(), all_.begin() + 1 + static_cast<std::ptrdiff_t>(random_() % all_.size()));
      lane.halves = may_halve_ && lane.places.size() % 2 == 0 && random_() % 2 == 0;
    }
    return last_ = lane;
  }
  LaneChange change() {
    return {.next = [this](const LaneStep&) { return next(); }, .changed = {}};
  }

 private:
  std::mt19937 random_;
  std::vector<int> all_;
  bool may_halve_;
  Lane last_{};
};

/// Draws with another lane at every step. \param changes counts them
inline std::vector<Generation> draw_walking(Engine& engine, std::span<const GenerationRequest> requests, uint32_t seed,
                                            int64_t& changes, std::span<const Progress> progress = {}) {
  const bool guided = std::ranges::all_of(requests, [](const GenerationRequest& r) { return *r.guidance_scale > 0; });
  Walk walk(seed, engine.places(), guided);
  const Lane first = walk.next();
  std::vector<Generation> made = engine.draw(requests, progress, first, walk.change());
  const std::vector<LaneReport>& lanes = made.front().report.lanes;
  changes += std::ssize(lanes) - 1;
  for (size_t i = 1; i < lanes.size(); ++i) EXPECT_GE(lanes[i].steps_done, lanes[i - 1].steps_done);
  return made;
}

inline void expect_walks_as_alone(const EngineOptions& of, const std::vector<GenerationRequest>& requests,
                                  uint32_t seed, const std::string& what, int64_t& changes) {
  EngineOptions of_one = of;
  of_one.parallelism = {};
  Engine one(of_one), engine(of);
  std::vector<Generation> alone;
  for (const GenerationRequest& each : requests) alone.push_back(one.generate(each));
  const std::vector<Generation> walked = draw_walking(engine, requests, seed, changes);
  ASSERT_EQ(walked.size(), requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    expect_same(alone[i], walked[i], fmt::format("{}, request {}", what, i));
    EXPECT_EQ(walked[i].cut, alone[i].cut);
    EXPECT_EQ(walked[i].report.step_ms.size(), walked[0].report.step_ms.size());
  }
}

/// Places that nobody draws on. Drawings take from them and give back at every step.
class Pool {
 public:
  explicit Pool(int places) {
    for (int place = 0; place < places; ++place) free_.push_back(place);
  }
  /// \return one place, for a drawing that begins; nothing where none is free.
  std::vector<int> begin() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return {};
    const int place = free_.back();
    free_.pop_back();
    return {place};
  }
  /// \return some of `own` and of the free places, one at least.
  std::vector<int> another(std::vector<int> own, std::mt19937& random) {
    const std::lock_guard lock(mutex_);
    std::ranges::shuffle(own, random);
    own.resize(1 + random() % own.size());
    for (size_t taken = free_.empty() ? 0 : random() % (free_.size() + 1); taken > 0; --taken) {
      own.push_back(free_.back());
      free_.pop_back();
    }
    return own;
  }
  void give_back(const std::vector<int>& places) {
    const std::lock_guard lock(mutex_);
    free_.insert(free_.end(), places.begin(), places.end());
  }

 private:
  std::mutex mutex_;
  std::vector<int> free_;
};

/// One of several drawings at once, whose lane changes with what the others leave.
inline Generation draw_beside_others(Engine& engine, Pool& pool, const GenerationRequest& drawn, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int> own;
  while ((own = pool.begin()).empty()) std::this_thread::yield();
  std::vector<int> left;
  const LaneChange change{.next =
                              [&](const LaneStep&) {
                                std::vector<int> next = pool.another(own, random);
                                left.clear();
                                for (const int place : own)
                                  if (std::ranges::find(next, place) == next.end()) left.push_back(place);
                                return Lane{own = std::move(next)};
                              },
                          .changed = [&](const Lane&) { pool.give_back(std::exchange(left, {})); }};
  Generation made = std::move(engine.draw({&drawn, 1}, {}, {own}, change).front());
  pool.give_back(own);
  return made;
}

/// \return drawings of unlike sizes and guidance.
inline std::vector<GenerationRequest> unlike_requests(int64_t steps) {
  return {request(24, 40, 3, steps), request(32, 36, 0, steps), request(40, 32, 3, steps)};
}

/// Draws all requests `drawings` times over on threads that share the places.
inline void expect_drawings_at_once_as_alone(const EngineOptions& of, const std::vector<GenerationRequest>& requests,
                                             int64_t drawings) {
  Engine engine(of);
  std::vector<Generation> wanted;
  for (const GenerationRequest& each : requests)
    wanted.push_back(std::move(engine.draw({&each, 1}, {}, {{0}}).front()));
  Pool pool(engine.places());
  std::vector<std::thread> threads;
  std::mutex mutex;
  for (size_t thread = 0; thread < requests.size(); ++thread)
    threads.emplace_back([&, thread] {
      for (int64_t i = 0; i < drawings; ++i) {
        const size_t which = (thread + static_cast<size_t>(i)) % requests.size();
        const Generation made = draw_beside_others(engine, pool, requests[which],
                                                   static_cast<uint32_t>(100 * thread) + static_cast<uint32_t>(i));
        const std::lock_guard lock(mutex);
        expect_same(wanted[which], made, fmt::format("drawing {} of thread {}", i, thread));
      }
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace nostos::lanes
