// Owns the thread that keeps a store within its limits and finds out when a full disk has space again.
#pragma once

#include <string>
#include <thread>

#include "apps/server/job_service.h"

namespace nostos::server {

/// Looks once a second. All that it is given must outlive it.
class Housekeeper {
 public:
  Housekeeper(JobStore& store, JobService& jobs, Metrics& metrics);

 private:
  /// What this throws is logged, and tried again at the next look.
  void look();

  JobStore& store_;
  JobService& jobs_;
  Metrics& metrics_;
  std::string told_{};  ///< the error that was logged last
  std::jthread thread_;
};

}  // namespace nostos::server
