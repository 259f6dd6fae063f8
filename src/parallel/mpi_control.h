// Owns what MPI ranks tell one another beside their messages: who has failed, who is gone, who waits. Included by the
// two files that call MPI alone.
#pragma once

#include <mpi.h>

#include <array>
#include <functional>
#include <list>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "parallel/peer_watch.h"
#include "parallel/waiting.h"

namespace nostos {

inline constexpr const char* kProcessEnded = "its process has ended";

/// \throws Error internal naming `call` unless `code` is MPI_SUCCESS
void check_mpi(int code, const char* call);

/// \return the pauses of waits that let MPI progress: up to a tenth of a millisecond.
inline Backoff mpi_pauses() { return {20, 100}; }

/// What this rank knows of the others beside their messages: who has failed, who is gone, who waits.
class ControlChannel {
 public:
  /// \param on_end called from a thread of its own, once, when a peer's process has ended
  ControlChannel(int rank, int world, std::function<void(int peer)> on_end);
  ControlChannel(const ControlChannel&) = delete;
  ControlChannel& operator=(const ControlChannel&) = delete;

  /// From here on peers may end.
  void stop_watching() { watch_.stop(); }
  /// Stops listening and watching; before MPI_Finalize.
  void close();

  const std::optional<CommunicatorFailure>& failure() const { return failure_; }
  /// \return what the run ends with: all ranks agree, because which of theirs the launcher passes on is a race.
  int exit_code() const { return exit_code_; }

  /// Records the first failure and tells all peers of it but the one at fault, which linger() tells.
  void fail_all(CommunicatorFailure failure, int exit_code = nostos::exit_code(ErrorKind::peer_failed));

  /// Looks whether all peers live, then reads what they say. Open MPI may end this process, before it has reported
  /// anything, when it meets the closed connection of a dead peer: from then on MPI is left alone.
  void poll();

  /// \return those of `ranks` that do not say within a second that they wait too.
  std::vector<int> find_absent(const std::vector<int>& ranks);

  /// Says that this rank has printed the failure, and waits until all others have that can, and until the rank that
  /// told this one has ended the run, but no longer than three seconds.
  void linger();

  /// MPI may still write to a buffer that is gone: from here on nothing may let it progress.
  void tear() { torn_ = true; }
  bool torn() const { return torn_; }
  /// MPI may still read a buffer that is gone, when the peer asks for the rest of it: from here on it may send what is
  /// new, which it does at once, but not progress. A send cannot be cancelled.
  void hush() { hushed_ = true; }
  bool hushed() const { return hushed_; }

 private:
  /// A message of the control channel; travels as its bytes.
  struct Notice {
    enum class Kind { failed, reported, question, answer };

    Kind kind = Kind::failed;
    // Of `failed`:
    int rank = 0;                    // at fault
    int exit_code = 0;               // of the whole run
    std::array<char, 492> reason{};  // zero-terminated
  };

  int world() const { return static_cast<int>(reported_.size()); }
  /// Watches the connections that MPI has made.
  void watch_connections();
  void listen();
  Notice failure_notice() const;
  void send(int peer, const Notice& notice);
  void read();

  int rank_;
  std::vector<bool> reported_;  // peers that know of the failure and have printed it
  std::vector<bool> waits_;     // peers that have answered the last question
  PeerWatch watch_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  Notice incoming_;
  MPI_Request incoming_request_ = MPI_REQUEST_NULL;
  std::list<std::pair<Notice, MPI_Request>> outgoing_;
  std::optional<CommunicatorFailure> failure_;
  int exit_code_ = 0;
  int reporter_;         // the rank that told this one of the failure
  bool torn_ = false;    // nothing may let MPI progress any more
  bool hushed_ = false;  // nothing but new messages may
};

}  // namespace nostos
