// Implements the control channel of MPI ranks, on a communicator of its own.
#include "parallel/mpi_control.h"

#include <chrono>
#include <numeric>
#include <thread>

namespace nostos {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kLinger{3000};      // for peers to print a failure before MPI_Abort ends them
constexpr milliseconds kTornLinger{300};   // the same where MPI can no longer say whether they have
constexpr milliseconds kAnswerTime{1000};  // for a rank that waits to say so

/// \return every rank's process. Of each two ranks the lower one speaks first, so that MPI opens one connection between
/// them, not two at once of which it would close one.
std::vector<ProcessIdentity> greet_all(int rank, int world) {
  std::vector<ProcessIdentity> all(world);
  all[rank] = this_process();
  const auto tell = [&](int peer) {
    check_mpi(MPI_Send(&all[rank], sizeof all[rank], MPI_BYTE, peer, 0, MPI_COMM_WORLD), "MPI_Send");
  };
  const auto hear = [&](int peer) {
    check_mpi(MPI_Recv(&all[peer], sizeof all[peer], MPI_BYTE, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE), "MPI_Recv");
  };
  for (int peer = 0; peer < world; ++peer) {
    if (peer < rank) hear(peer);
    if (peer != rank) tell(peer);
    if (peer > rank) hear(peer);
  }
  return all;
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  fail(ErrorKind::internal, "{} failed: {}", call, std::string_view(text.data(), static_cast<size_t>(length)));
}

ControlChannel::ControlChannel(int rank, int world, std::function<void(int peer)> on_end)
    : rank_(rank), reported_(world), waits_(world), watch_(greet_all(rank, world), rank), reporter_(rank) {
  static_assert(std::is_trivially_copyable_v<Notice>);
  watch_connections();
  watch_.start(std::move(on_end));
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  listen();
}

void ControlChannel::close() {
  stop_watching();
  MPI_Cancel(&incoming_request_);
  MPI_Wait(&incoming_request_, MPI_STATUS_IGNORE);
}

void ControlChannel::fail_all(CommunicatorFailure failure, int exit_code) {
  if (failure_) return;
  failure_ = std::move(failure);
  exit_code_ = exit_code;
  for (int peer = 0; peer < world(); ++peer)
    if (peer != failure_->rank) send(peer, failure_notice());
}

void ControlChannel::poll() {
  if (torn_ || hushed_) return;
  if (const std::optional<int> ended = watch_.first_ended()) {
    fail_all({*ended, kProcessEnded});
    torn_ = true;
  } else {
    read();
  }
}

std::vector<int> ControlChannel::find_absent(const std::vector<int>& ranks) {
  const auto deadline = Clock::now() + kAnswerTime;
  for (const int rank : ranks) {
    waits_[rank] = false;
    send(rank, {Notice::Kind::question});
  }
  std::vector<int> absent = ranks;
  Backoff backoff = mpi_pauses();
  while (!absent.empty() && !failure_ && Clock::now() < deadline) {
    poll();
    std::erase_if(absent, [this](int rank) { return waits_[rank]; });
    backoff.pause();
  }
  return absent;
}

void ControlChannel::linger() {
  if (torn_) return std::this_thread::sleep_for(kTornLinger);
  const bool listens = failure_->rank == reporter_;  // a rank that told of its own failure, not one that is missing
  for (int peer = 0; peer < world(); ++peer)
    if (peer != failure_->rank || listens) send(peer, {Notice::Kind::reported});
  // Last, because Open MPI may end this process when it cannot connect to a rank that is gone.
  if (reporter_ == rank_) send(failure_->rank, failure_notice());
  const auto deadline = Clock::now() + kLinger;
  while (Clock::now() < deadline) {
    if (!watch_.first_ended()) read();
    bool all_reported = reporter_ == rank_ || watch_.has_ended(reporter_);
    for (int peer = 0; peer < world(); ++peer) {
      const bool can_report = peer != rank_ && peer != failure_->rank && !watch_.has_ended(peer);
      all_reported = all_reported && (!can_report || reported_[peer]);
    }
    if (all_reported) return;
    std::this_thread::sleep_for(milliseconds(1));
  }
}

void ControlChannel::watch_connections() {
  const std::vector<TcpConnection> own = tcp_connections();
  const int own_bytes = static_cast<int>(own.size() * sizeof(TcpConnection));
  std::vector<int> bytes(reported_.size()), offsets(reported_.size());
  check_mpi(MPI_Allgather(&own_bytes, 1, MPI_INT, bytes.data(), 1, MPI_INT, MPI_COMM_WORLD), "MPI_Allgather");
  std::exclusive_scan(bytes.begin(), bytes.end(), offsets.begin(), 0);
  std::vector<TcpConnection> all((offsets.back() + bytes.back()) / sizeof(TcpConnection));
  check_mpi(MPI_Allgatherv(own.data(), own_bytes, MPI_BYTE, all.data(), bytes.data(), offsets.data(), MPI_BYTE,
                           MPI_COMM_WORLD),
            "MPI_Allgatherv");
  for (int peer = 0; peer < world(); ++peer) {
    if (peer == rank_) continue;
    watch_.add_connections(
        peer, own, std::span(all).subspan(offsets[peer] / sizeof(TcpConnection), bytes[peer] / sizeof(TcpConnection)));
  }
}

void ControlChannel::listen() {
  check_mpi(MPI_Irecv(&incoming_, sizeof incoming_, MPI_BYTE, MPI_ANY_SOURCE, 0, comm_, &incoming_request_),
            "MPI_Irecv");
}

ControlChannel::Notice ControlChannel::failure_notice() const {
  Notice notice{Notice::Kind::failed, failure_->rank, exit_code_};
  failure_->reason.copy(notice.reason.data(), notice.reason.size() - 1);
  return notice;
}

void ControlChannel::send(int peer, const Notice& notice) {
  if (torn_ || peer == rank_ || watch_.has_ended(peer)) return;
  outgoing_.emplace_back(notice, MPI_REQUEST_NULL);
  auto& [message, request] = outgoing_.back();
  check_mpi(MPI_Isend(&message, sizeof message, MPI_BYTE, peer, 0, comm_, &request), "MPI_Isend");
}

void ControlChannel::read() {
  if (torn_ || hushed_) return;
  std::erase_if(outgoing_, [](auto& each) {
    int sent = 0;
    return MPI_Test(&each.second, &sent, MPI_STATUS_IGNORE) != MPI_SUCCESS || sent != 0;
  });
  for (;;) {
    int arrived = 0;
    MPI_Status status;
    check_mpi(MPI_Test(&incoming_request_, &arrived, &status), "MPI_Test");
    if (arrived == 0) return;
    const Notice notice = incoming_;
    listen();
    switch (notice.kind) {
      case Notice::Kind::failed:
        if (failure_) break;
        failure_ = CommunicatorFailure{notice.rank, notice.reason.data()};
        exit_code_ = notice.exit_code;
        reporter_ = status.MPI_SOURCE;
        break;
      case Notice::Kind::reported:
        reported_[status.MPI_SOURCE] = true;
        break;
      case Notice::Kind::question:
        send(status.MPI_SOURCE, {Notice::Kind::answer});
        break;
      case Notice::Kind::answer:
        waits_[status.MPI_SOURCE] = true;
        break;
    }
  }
}

}  // namespace nostos
