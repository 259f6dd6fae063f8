// Implements MPI ranks: messages, waits that sleep, and the end of a run.
#include "parallel/mpi_communicator.h"

#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "parallel/launcher.h"
#include "parallel/mpi_control.h"
#include "parallel/waiting.h"

namespace nostos {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kWithdrawTime{200};  // for peers to finish messages that are half way

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
    const auto timeout = clock_duration(options_.timeout_s);
    auto deadline = Clock::now() + timeout;
    bool renewed = false;
    Backoff backoff = mpi_pauses();
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
    Backoff backoff = mpi_pauses();
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
    control_.fail_all({piece.peer, fmt::format("rank {} lost the connection to it in {}", rank_, name_)});
    throw_peer_failed(*control_.failure(), rank_);
  }

  /// Fails everybody, naming the ranks that have not come. One that waits itself is a victim like this one: if all do,
  /// they get the time to name the culprit, once.
  void give_up_on_absent(bool waited_for_others) {
    std::vector<int> missing;
    for (size_t i = 0; i < requests_.size(); ++i)
      if (requests_[i] != MPI_REQUEST_NULL) missing.push_back(pieces_[i].peer);
    missing = distinct(std::move(missing));
    const std::vector<int> absent = control_.find_absent(missing);
    if (!control_.failure() && take_done() != 0) return;  // some came meanwhile
    if (absent.empty() && !waited_for_others) return;
    if (!absent.empty()) missing = absent;
    control_.fail_all(absence(missing, name_, options_.timeout_s, rank_));
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
      control_.fail_all({rank(), std::string(reason)});
    } catch (const std::exception&) {
      // Not even the text fits into memory: the end of this process tells the others.
    }
  }

  RankDevice& device() override { return device_; }
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
  HostRankDevice device_{*this};
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
  control.fail_all({comm.rank(), describe(error)}, exit_code);
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
    comm.control().stop_watching();
    comm.barrier();  // nor while another watches it, for started by srun MPI_Finalize waits for nobody
    comm.control().close();
  } catch (...) {
    end_run(comm, std::current_exception(), report_once);
  }
  check_mpi(MPI_Finalize(), "MPI_Finalize");
}

}  // namespace nostos
