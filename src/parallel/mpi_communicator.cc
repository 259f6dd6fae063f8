// Implements MPI ranks: messages on one communicator, failures and questions on another, and waits that sleep.
#include "parallel/mpi_communicator.h"

#include <fmt/format.h>
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "parallel/launcher.h"
#include "parallel/peer_watch.h"

namespace nostos {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr const char* kProcessEnded = "its process has ended";
constexpr milliseconds kLinger{3000};       // for peers to print a failure before MPI_Abort ends them
constexpr milliseconds kTornLinger{300};    // the same where MPI can no longer say whether they have
constexpr milliseconds kAnswerTime{1000};   // for a rank that waits to say so
constexpr milliseconds kWithdrawTime{200};  // for peers to finish messages that are half way

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  fail(ErrorKind::internal, "{} failed: {}", call, std::string_view(text.data(), static_cast<size_t>(length)));
}

/// Yields, then sleeps ever longer, up to a tenth of a millisecond: long waits leave the processor to others.
class Backoff {
 public:
  void reset() { turns_ = 0; }
  void pause() {
    if (++turns_ <= 20)
      sched_yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(std::min(turns_, 100)));
  }

 private:
  int turns_ = 0;
};

/// A message of the control channel.
struct Notice {
  enum class Kind { failed, reported, question, answer };

  Kind kind = Kind::failed;
  // Of `failed`:
  int rank = 0;                    // at fault
  int exit_code = 0;               // of the whole run
  std::array<char, 492> reason{};  // zero-terminated
};
static_assert(std::is_trivially_copyable_v<Notice>);

/// What this rank knows of the others beside their messages: who has failed, who is gone, who waits.
class ControlChannel {
 public:
  /// \param on_end called from a thread of its own, once, when a peer's process has ended
  ControlChannel(int rank, int world, std::function<void(int peer)> on_end)
      : rank_(rank), reported_(world), waits_(world), watch_(greet_all(rank, world), rank), reporter_(rank) {
    watch_connections();
    watch_.start(std::move(on_end));
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    listen();
  }
  ControlChannel(const ControlChannel&) = delete;
  ControlChannel& operator=(const ControlChannel&) = delete;

  /// Stops listening and watching; before MPI_Finalize.
  void close() {
    watch_.stop();
    MPI_Cancel(&incoming_request_);
    MPI_Wait(&incoming_request_, MPI_STATUS_IGNORE);
  }

  const std::optional<CommunicatorFailure>& failure() const { return failure_; }
  /// \return what the run ends with: all ranks agree, because which of theirs the launcher passes on is a race.
  int exit_code() const { return exit_code_; }

  /// Records the first failure and tells all peers of it but the one at fault, which linger() tells.
  void fail_all(int rank, std::string reason, int exit_code = nostos::exit_code(ErrorKind::peer_failed)) {
    if (failure_) return;
    failure_ = CommunicatorFailure{rank, std::move(reason)};
    exit_code_ = exit_code;
    for (int peer = 0; peer < world(); ++peer)
      if (peer != rank) send(peer, failure_notice());
  }

  /// Looks whether all peers live, then reads what they say. Open MPI may end this process, before it has reported
  /// anything, when it meets the closed connection of a dead peer: from then on MPI is left alone.
  void poll() {
    if (torn_ || hushed_) return;
    if (const std::optional<int> ended = watch_.first_ended()) {
      fail_all(*ended, kProcessEnded);
      torn_ = true;
    } else {
      read();
    }
  }

  /// \return those of `ranks` that do not say within kAnswerTime that they wait too.
  std::vector<int> find_absent(const std::vector<int>& ranks) {
    const auto deadline = Clock::now() + kAnswerTime;
    for (const int rank : ranks) {
      waits_[rank] = false;
      send(rank, {Notice::Kind::question});
    }
    std::vector<int> absent = ranks;
    Backoff backoff;
    while (!absent.empty() && !failure_ && Clock::now() < deadline) {
      poll();
      std::erase_if(absent, [this](int rank) { return waits_[rank]; });
      backoff.pause();
    }
    return absent;
  }

  /// Says that this rank has printed the failure, and waits until all others have that can, and until the rank that
  /// told this one has ended the run, but no longer than kLinger.
  void linger() {
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

  /// MPI may still write to a buffer that is gone: from here on nothing may let it progress.
  void tear() { torn_ = true; }
  bool torn() const { return torn_; }
  /// MPI may still read a buffer that is gone, when the peer asks for the rest of it: from here on it may send what is new,
  /// which it does at once, but not progress. A send cannot be cancelled.
  void hush() { hushed_ = true; }
  bool hushed() const { return hushed_; }

 private:
  int world() const { return static_cast<int>(reported_.size()); }

  /// \return every rank's process. Of each two ranks the lower one speaks first, so that MPI opens one connection between
  /// them, not two at once of which it would close one.
  static std::vector<ProcessIdentity> greet_all(int rank, int world) {
    std::vector<ProcessIdentity> all(world);
    all[rank] = this_process();
    const auto tell = [&](int peer) {
      check_mpi(MPI_Send(&all[rank], sizeof all[rank], MPI_BYTE, peer, 0, MPI_COMM_WORLD), "MPI_Send");
    };
    const auto hear = [&](int peer) {
      check_mpi(MPI_Recv(&all[peer], sizeof all[peer], MPI_BYTE, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE),
                "MPI_Recv");
    };
    for (int peer = 0; peer < world; ++peer) {
      if (peer < rank) hear(peer);
      if (peer != rank) tell(peer);
      if (peer > rank) hear(peer);
    }
    return all;
  }

  /// Watches the connections that MPI has made.
  void watch_connections() {
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
          peer, own,
          std::span(all).subspan(offsets[peer] / sizeof(TcpConnection), bytes[peer] / sizeof(TcpConnection)));
    }
  }

  void listen() {
    check_mpi(MPI_Irecv(&incoming_, sizeof incoming_, MPI_BYTE, MPI_ANY_SOURCE, 0, comm_, &incoming_request_),
              "MPI_Irecv");
  }

  Notice failure_notice() const {
    Notice notice{Notice::Kind::failed, failure_->rank, exit_code_};
    failure_->reason.copy(notice.reason.data(), notice.reason.size() - 1);
    return notice;
  }

  void send(int peer, const Notice& notice) {
    if (torn_ || peer == rank_ || watch_.has_ended(peer)) return;
    outgoing_.emplace_back(notice, MPI_REQUEST_NULL);
    auto& [message, request] = outgoing_.back();
    check_mpi(MPI_Isend(&message, sizeof message, MPI_BYTE, peer, 0, comm_, &request), "MPI_Isend");
  }

  void read() {
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

class MpiOperation final : public Operation {
 public:
  MpiOperation(ControlChannel& control, MPI_Comm comm, int rank, const MpiOptions& options, const char* name)
      : control_(control), comm_(comm), rank_(rank), options_(options), name_(name) {}

  ~MpiOperation() override {
    if (control_.torn()) return;
    if (!control_.hushed()) withdraw();
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      pieces_[i].sends ? control_.hush() : control_.tear();
    }
  }

  void start(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives) {
    for (const ReceiveFrom& receive : receives) {
      post(receive.peer, false, receive.bytes.bytes, [&](size_t offset, int bytes, MPI_Request* request) {
        return MPI_Irecv(receive.bytes.data + offset, bytes, MPI_BYTE, receive.peer, 0, comm_, request);
      });
    }
    for (const SendTo& send : sends) {
      post(send.peer, true, send.bytes.bytes, [&](size_t offset, int bytes, MPI_Request* request) {
        return MPI_Isend(send.bytes.data + offset, bytes, MPI_BYTE, send.peer, 0, comm_, request);
      });
    }
  }

  void wait() override {
    constexpr double kForeverS = 1e9;  // keeps the deadline within the clock's range
    const auto timeout = std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(std::min(options_.timeout_s, kForeverS)));
    auto deadline = Clock::now() + timeout;
    bool renewed = false;
    Backoff backoff;
    for (;;) {
      control_.poll();
      if (control_.failure()) throw_peer_failed(*control_.failure(), rank_);
      const int done = take_done();
      if (done == MPI_UNDEFINED) return;
      if (done > 0) {
        deadline = Clock::now() + timeout;
        renewed = false;
        backoff.reset();
      } else if (options_.timeout_s > 0 && Clock::now() >= deadline) {
        give_up_on_absent(renewed);
        renewed = true;
        deadline = Clock::now() + timeout;
      } else {
        backoff.pause();
      }
    }
  }

 private:
  struct Piece {
    int peer;
    bool sends;
    int bytes;
  };

  /// Cancels what has not begun to arrive, and gives peers time to finish the rest.
  void withdraw() {
    for (size_t i = 0; i < requests_.size(); ++i)
      if (!pieces_[i].sends && requests_[i] != MPI_REQUEST_NULL) MPI_Cancel(&requests_[i]);
    const auto deadline = Clock::now() + kWithdrawTime;
    Backoff backoff;
    bool all_done = false;
    while (!all_done && Clock::now() < deadline) {
      // Each by itself: MPI_Testall marks none as finished until all are, and a send may be stuck.
      all_done = true;
      for (MPI_Request& request : requests_) {
        int done = 0;
        MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        all_done = all_done && done != 0;
      }
      if (!all_done) backoff.pause();
    }
  }

  template <class Post>
  void post(int peer, bool sends, size_t bytes, const Post& post_piece) {
    size_t offset = 0;
    do {
      const int piece_bytes = static_cast<int>(std::min(bytes - offset, options_.piece_bytes));
      pieces_.push_back({peer, sends, piece_bytes});
      requests_.push_back(MPI_REQUEST_NULL);
      check_mpi(post_piece(offset, piece_bytes, &requests_.back()), sends ? "MPI_Isend" : "MPI_Irecv");
      offset += static_cast<size_t>(piece_bytes);
    } while (offset < bytes);
  }

  /// \return how many requests have completed since the last call, MPI_UNDEFINED if none is left.
  int take_done() {
    const int count = static_cast<int>(requests_.size());
    std::vector<int> indices(requests_.size());
    std::vector<MPI_Status> statuses(requests_.size());
    int done = 0;
    const int code = MPI_Testsome(count, requests_.data(), &done, indices.data(), statuses.data());
    if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) check_mpi(code, "MPI_Testsome");
    for (int i = 0; done != MPI_UNDEFINED && i < done; ++i) {
      const Piece& piece = pieces_[indices[i]];
      if (code == MPI_ERR_IN_STATUS && statuses[i].MPI_ERROR != MPI_SUCCESS) fail_piece(piece, statuses[i].MPI_ERROR);
      int received = 0;
      if (!piece.sends) MPI_Get_count(&statuses[i], MPI_BYTE, &received);
      require(piece.sends || received == piece.bytes, ErrorKind::internal,
              "rank {} sends {} bytes to rank {} in {}, which expects {}", piece.peer, received, rank_, name_,
              piece.bytes);
    }
    return done;
  }

  [[noreturn]] void fail_piece(const Piece& piece, int code) {
    int error_class = 0;
    MPI_Error_class(code, &error_class);
    require(error_class != MPI_ERR_TRUNCATE, ErrorKind::internal,
            "rank {} sends more than {} bytes to rank {} in {}, which expects {}", piece.peer, piece.bytes, rank_,
            name_, piece.bytes);
    control_.fail_all(piece.peer, fmt::format("rank {} lost the connection to it in {}", rank_, name_));
    throw_peer_failed(*control_.failure(), rank_);
  }

  /// Fails everybody, naming the ranks that have not come. One that waits itself is a victim like this one: if all do,
  /// they get the time to name the culprit, once.
  void give_up_on_absent(bool waited_for_others) {
    std::vector<int> missing;
    for (size_t i = 0; i < requests_.size(); ++i)
      if (requests_[i] != MPI_REQUEST_NULL) missing.push_back(pieces_[i].peer);
    std::sort(missing.begin(), missing.end());
    missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
    const std::vector<int> absent = control_.find_absent(missing);
    if (!control_.failure() && take_done() != 0) return;  // some came meanwhile
    if (absent.empty() && !waited_for_others) return;
    if (!absent.empty()) missing = absent;
    control_.fail_all(missing.front(),
                      fmt::format("{} did not come to {} within {} s (rank {} waited)",
                                  missing.size() == 1 ? "it" : rank_list(missing), name_, options_.timeout_s, rank_));
    throw_peer_failed(*control_.failure(), rank_);
  }

  ControlChannel& control_;
  MPI_Comm comm_;
  int rank_;
  MpiOptions options_;
  const char* name_;
  std::vector<MPI_Request> requests_;
  std::vector<Piece> pieces_;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(int rank, int world, const MpiOptions& options, std::function<void(int peer)> on_end)
      : Communicator(rank, world), options_(options), control_(rank, world, std::move(on_end)) {
    check(options.piece_bytes >= 1 && options.piece_bytes <= size_t{1} << 30, "a piece's bytes fit an int");
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }

  void abort(std::string_view reason) noexcept override {
    try {
      control_.fail_all(rank(), std::string(reason));
    } catch (const std::exception&) {
      // Not even the text fits into memory: the end of this process tells the others.
    }
  }

  ControlChannel& control() { return control_; }

 protected:
  std::unique_ptr<Operation> start(const char* name, std::span<const SendTo> sends,
                                   std::span<const ReceiveFrom> receives, std::span<const int>) override {
    control_.poll();
    if (control_.failure()) throw_peer_failed(*control_.failure(), rank());
    auto operation = std::make_unique<MpiOperation>(control_, comm_, rank(), options_, name);
    operation->start(sends, receives);
    return operation;
  }

 private:
  const MpiOptions& options_;
  ControlChannel control_;
  MPI_Comm comm_ = MPI_COMM_NULL;
};

bool is_cancelled(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& each) {
    return each.kind() == ErrorKind::cancelled;
  } catch (...) {
    return false;
  }
}

std::exception_ptr peer_error(const CommunicatorFailure& failure, int rank) {
  try {
    throw_peer_failed(failure, rank);
  } catch (const Error&) {
    return std::current_exception();
  }
}

/// Reports the first error of this rank, whichever thread has it, and no other.
class Reporter {
 public:
  explicit Reporter(const std::function<int(std::exception_ptr)>& report) : report_(report) {}

  /// \return the exit code of the reported error.
  int operator()(const std::exception_ptr& error) {
    const std::lock_guard lock(mutex_);
    if (!exit_code_) {
      exit_code_ = report_(error);
      std::fflush(nullptr);
    }
    return *exit_code_;
  }

 private:
  const std::function<int(std::exception_ptr)>& report_;
  std::mutex mutex_;
  std::optional<int> exit_code_;
};

[[noreturn]] void end_run(MpiCommunicator& comm, std::exception_ptr error, Reporter& report) {
  ControlChannel& control = comm.control();
  if (is_cancelled(error)) {
    control.poll();
    if (control.failure()) error = peer_error(*control.failure(), comm.rank());
  }
  const int exit_code = report(error);
  control.fail_all(comm.rank(), describe(error), exit_code);
  std::signal(SIGTERM, SIG_DFL);  // this rank has said all: if another ends the run first, that is the end
  control.linger();
  MPI_Abort(MPI_COMM_WORLD, control.exit_code());
  std::_Exit(control.exit_code());
}

}  // namespace

bool built_with_mpi() { return true; }

void run_mpi_rank(const std::function<void(Communicator&)>& body, const std::function<int(std::exception_ptr)>& report,
                  const MpiOptions& options) {
  const std::optional<Launcher> launcher = find_launcher();
  int provided = 0, rank = 0, world = 0;
  std::signal(SIGPIPE, SIG_IGN);  // Open MPI writes to a dead peer's socket before it sees that the peer is dead
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &world), "MPI_Comm_size");
  if (launcher && launcher->world != 0 && launcher->world != world) {
    MPI_Finalize();
    fail(ErrorKind::device,
         "{} started {} ranks, but MPI sees {}: launcher and MPI library do not belong together (srun may need "
         "--mpi=pmix)",
         launcher->name, launcher->world, world);
  }
  Reporter report_once(report);
  // Over sockets Open MPI ends this process when it meets the closed connection of a dead peer: the watch is quicker.
  MpiCommunicator comm(rank, world, options, [&report_once, rank](int peer) {
    report_once(peer_error({peer, kProcessEnded}, rank));
  });
  try {
    body(comm);
    comm.barrier();  // no rank leaves before all have succeeded
    comm.control().close();
  } catch (...) {
    end_run(comm, std::current_exception(), report_once);
  }
  check_mpi(MPI_Finalize(), "MPI_Finalize");
}

}  // namespace nostos
