// Tests the board of live jobs: places, order, what watchers are told, and who is withdrawn how.
#include "apps/server/job_board.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server_jobs_case.h"

namespace nostos::server {
namespace {

class ServerBoard : public testing::Test {
 protected:
  void add(const std::string& id, bool attached = false, size_t reserved = 0) {
    const Job job = small_job(id, attached);
    board_.add({&job, 1}, reserved);
  }

  /// Notes what is told of a job, as "queued 1".
  void watch(const std::string& id, std::vector<std::string>& told) {
    const auto note = [&told](const JobEvent& event) {
      const nlohmann::json data = nlohmann::json::parse(event.data);
      told.push_back(event.name + (data.contains("position") && data["position"].is_number()
                                       ? " " + std::to_string(data["position"].get<int64_t>())
                                       : ""));
    };
    EXPECT_NE(board_.watch(id, {.tell = note}), 0u);
  }

  std::vector<std::string> take(int64_t room = 1) {
    std::vector<std::string> ids;
    engine_.pictures_at_once = [room](const GenerationRequest&) { return room; };
    board_.open(engine_);
    const TakenLane lane = board_.take_turns([] { return true; });
    for (const auto& job : lane.jobs) {
      ids.push_back(job->id);
      taken_.push_back(job);
    }
    if (!lane.jobs.empty()) board_.end_lane(lane.lane);
    return ids;
  }

  EngineCalls engine_{.draw = {}, .pictures_at_once = one_at_once};
  JobBoard board_;
  std::vector<std::shared_ptr<LiveJob>> taken_;
};

TEST_F(ServerBoard, PlacesAreThoseThatWaitAndThoseOnTheirWay) {
  EXPECT_TRUE(board_.reserve(2));
  EXPECT_TRUE(board_.reserve(2));
  EXPECT_FALSE(board_.reserve(2));
  add("a", false, 1);
  EXPECT_FALSE(board_.reserve(2));
  board_.release();
  EXPECT_TRUE(board_.reserve(2));
  board_.release();
  EXPECT_EQ(take(), std::vector<std::string>{"a"});  // what is drawn takes no place
  EXPECT_TRUE(board_.reserve(1));
}

TEST_F(ServerBoard, WatchersHearTheirPlaceAndTheEnd) {
  add("a");
  add("b");
  std::vector<std::string> a, b;
  watch("a", a);
  watch("b", b);
  EXPECT_EQ(take(), std::vector<std::string>{"a"});
  board_.set_stage(*taken_[0], "denoise");
  board_.set_step(*taken_[0], 1, 2, 1.0);
  Job ended = small_job("a");
  ended.status = JobStatus::completed;
  board_.end("a", ended);
  EXPECT_EQ(a, (std::vector<std::string>{"queued 0", "started", "stage", "step", "done"}));
  EXPECT_EQ(b, (std::vector<std::string>{"queued 1", "queued 0"}));
  EXPECT_EQ(board_.watch("a", {.tell = [](const JobEvent&) {}}), 0u);
  EXPECT_FALSE(board_.is_drawing());
}

TEST_F(ServerBoard, WhatIsWithdrawnLeavesTheQueueOrIsTold) {
  for (const char* id : {"a", "b"}) add(id);
  EXPECT_EQ(board_.withdraw("other"), JobBoard::Withdrawn::not_live);
  EXPECT_EQ(board_.withdraw("b"), JobBoard::Withdrawn::waiting);
  EXPECT_EQ(board_.withdraw("b"), JobBoard::Withdrawn::told) << "its first caller says how it ends";
  board_.wait_again("b");
  EXPECT_EQ(board_.waiting(), 2u);
  EXPECT_EQ(take(2), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(board_.drawn_first(), "a");
  EXPECT_EQ(board_.withdraw("a"), JobBoard::Withdrawn::told);
  EXPECT_TRUE(taken_[0]->stop_drawing);
  EXPECT_FALSE(taken_[1]->stop_drawing);
  // Back in the queue it is the first again, and still to be cancelled; the other one is not.
  EXPECT_FALSE(board_.put_back(*taken_[1]));
  EXPECT_TRUE(board_.put_back(*taken_[0]));
  EXPECT_FALSE(taken_[0]->stop_drawing);
  EXPECT_EQ(take(2), (std::vector<std::string>{"a", "b"}));
}

TEST_F(ServerBoard, OnceClosedNothingIsBegunAndWhatIsDrawnIsStopped) {
  for (const char* id : {"a", "b"}) add(id);
  add("in line", true);
  EXPECT_EQ(take(), std::vector<std::string>{"a"});
  EXPECT_EQ(board_.close(), std::vector<std::string>{"in line"});
  EXPECT_TRUE(take().empty());
  EXPECT_TRUE(board_.was_interrupted(*taken_[0]));
  std::thread drawing([&] {
    wait_until([&] { return taken_[0]->stop_drawing.load(); });
    board_.put_back(*taken_[0]);
  });
  board_.wait_for_turns(std::chrono::milliseconds(0));
  drawing.join();
  EXPECT_FALSE(board_.is_drawing());
  EXPECT_EQ(board_.waiting(), 3u);
}

TEST_F(ServerBoard, PreviewsAreForThoseWhoWaitForThem) {
  add("a");
  std::vector<std::string> told;
  const auto note = [&](const JobEvent& event) { told.push_back(event.name + ":" + event.data); };
  take();
  EXPECT_FALSE(board_.wants_preview(*taken_[0], 1));
  EXPECT_EQ(board_.preview_of_drawn(), nullptr);
  EXPECT_TRUE(board_.wants_preview(*taken_[0], 1)) << "somebody asked just now";
  EXPECT_FALSE(board_.preview_wishes(*taken_[0], 1).previews);
  board_.watch("a", {.tell = note, .previews = true, .partial_images = 1});
  told.clear();
  EXPECT_TRUE(board_.preview_wishes(*taken_[0], 1).previews);
  EXPECT_TRUE(board_.preview_wishes(*taken_[0], 1).partial_images);
  EXPECT_FALSE(board_.preview_wishes(*taken_[0], 2).partial_images) << "the last step's is the picture itself";
  board_.show_preview(*taken_[0], 1, Image{1, 1, {0, 0, 0}}, "p", "q");
  board_.show_preview(*taken_[0], 1, Image{1, 1, {0, 0, 0}}, "", "");
  EXPECT_EQ(told, (std::vector<std::string>{"preview:p", "partial:q"}));
  EXPECT_NE(board_.preview_of_drawn(), nullptr);
}

}  // namespace
}  // namespace nostos::server
