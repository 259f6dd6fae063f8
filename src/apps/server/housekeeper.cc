// Implements the housekeeper.
#include "apps/server/housekeeper.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stop_token>

#include "apps/server/json_log.h"

namespace nostos::server {
namespace {

constexpr std::chrono::seconds kPause{1};
constexpr int64_t kJobsALook = 100;  // others want the store, too

}  // namespace

Housekeeper::Housekeeper(JobStore& store, JobService& jobs, Metrics& metrics)
    : store_(store), jobs_(jobs), metrics_(metrics), thread_([this](const std::stop_token& stop) {
        std::mutex mutex;
        std::condition_variable_any never;
        for (std::unique_lock lock(mutex); !stop.stop_requested();) {
          look();
          never.wait_for(lock, stop, kPause, [] { return false; });
        }
      }) {}

void Housekeeper::look() {
  try {
    store_.probe();
    jobs_.take_up();  // at every look: what failed at the one before is tried again
    size_t forgotten = 0;
    for (const std::string& id : store_.surplus(kJobsALook)) forgotten += jobs_.forget(id) ? 1 : 0;
    if (forgotten > 0) {
      metrics_.add("nostos_jobs_forgotten_total", {}, static_cast<double>(forgotten));
      log_json(LogLevel::info, "old jobs forgotten", {{"jobs", forgotten}});
    }
    told_.clear();
  } catch (const std::exception& error) {
    if (told_ == error.what()) return;
    told_ = error.what();
    log_json(LogLevel::error, "housekeeping failed", {{"error", told_}});
  }
}

}  // namespace nostos::server
