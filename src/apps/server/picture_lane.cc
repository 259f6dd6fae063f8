// Implements the thread on which pictures are read.
#include "apps/server/picture_lane.h"

#include <memory>
#include <utility>

#include "apps/server/outlet.h"

namespace nostos::server {

PictureLane::~PictureLane() {
  thread_.stop();
  thread_.join();
}

bool PictureLane::post(std::function<void()> work) {
  if (++waiting_ > kMostWaiting) {
    --waiting_;
    return false;
  }
  const std::shared_ptr<void> place(this, [this](void*) { --waiting_; });
  post_to(thread_, [place, work = std::move(work)] { work(); });
  return true;
}

}  // namespace nostos::server
