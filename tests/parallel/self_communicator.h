// Owns the one rank of a world of one, for tests that need no thread: every exchange is with itself.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "parallel/communicator.h"
#include "parallel/waiting.h"

namespace nostos {

class SelfCommunicator final : public Communicator {
 public:
  SelfCommunicator() : Communicator(0, 1) {}
  void abort(std::string_view reason) noexcept override {
    if (!std::exchange(aborted_, true)) reason_ = reason;
  }
  RankDevice& device() override { return device_; }

 protected:
  std::unique_ptr<Operation> start(const char*, std::span<const SendTo>, std::span<const ReceiveFrom>,
                                   std::span<const int>) override {
    if (aborted_) throw_peer_failed({0, reason_}, 0);
    return nullptr;
  }

 private:
  HostRankDevice device_{*this};
  std::string reason_;
  bool aborted_ = false;
};

}  // namespace nostos
