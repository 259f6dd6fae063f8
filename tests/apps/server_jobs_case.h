// Owns what tests of jobs share: a store in a folder of its own, and an engine that draws black.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <thread>
#include <vector>

#include "apps/server/identifiers.h"
#include "apps/server/job_service.h"

namespace nostos::server {

/// \return a job of one black picture of 64x64 in two steps.
inline Job small_job(const std::string& id, bool attached = false) {
  Job made;
  made.id = id;
  GenerationRequest request{.prompt = id, .seed = 5};
  request.width = request.height = 64;
  request.num_inference_steps = 2;
  made.order.record.request = resolve(request, {}).request;
  made.client = "client";
  made.attached = attached;
  made.created_at = 1;
  return made;
}

/// \return a black picture for each that is asked for.
inline std::vector<Generation> black(std::span<const GenerationRequest> requests, std::span<const Progress>,
                                     const Lane& = {}, const LaneChange& = {}) {
  std::vector<Generation> made(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    for (int64_t n = 0; n < requests[i].num_outputs; ++n) {
      const int64_t width = *requests[i].width, height = *requests[i].height;
      made[i].pictures.push_back(
          {.image = {height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))},
           .latents = {},
           .seed = 5});
    }
  }
  return made;
}

inline int64_t one_at_once(const GenerationRequest&) { return 1; }

/// Waits, at most a minute, until `condition` holds.
template <class Condition>
void wait_until(const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!condition() && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(condition());
}

/// A folder that goes with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_(std::filesystem::path(testing::TempDir()) / random_id("jobs_")) {}
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace nostos::server
