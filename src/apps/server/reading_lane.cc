// Implements the thread on which what takes long is read.
#include "apps/server/reading_lane.h"

#include <memory>
#include <utility>

#include "apps/server/outlet.h"

namespace nostos::server {

ReadingLane::~ReadingLane() {
  thread_.stop();
  thread_.join();
}

bool ReadingLane::post(std::function<void()> work) {
  if (++waiting_ > most_waiting_) {
    --waiting_;
    return false;
  }
  const std::shared_ptr<void> place(this, [this](void*) { --waiting_; });
  post_to(thread_, [place, work = std::move(work)] { work(); });
  return true;
}

}  // namespace nostos::server
