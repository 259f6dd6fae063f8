// One rank of the MPI tests: `mpi_rank exchange` runs the cases of every backend, the other modes fail in one way each.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>

#include "base/error.h"
#include "parallel/exchange_cases.h"
#include "parallel/mpi_communicator.h"

namespace nostos {
namespace {

std::atomic<bool> g_terminated{false};  // a signal handler can reach nothing but a global

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

void announce(const Communicator& comm) {
  // One call a line: the launcher mixes what several ranks write.
  const std::string line = "ready " + std::to_string(comm.rank()) + " " + std::to_string(getpid()) + "\n";
  std::fputs(line.c_str(), stdout);
  std::fflush(stdout);
}

void exchange_until_stopped(Communicator& comm, bool rendezvous) {
  comm.barrier();
  announce(comm);
  for (uint64_t round = 0;; ++round) {
    exchange_cases::AllToAll exchange(comm, round, rendezvous ? 1 << 20 : 2000);
    exchange.start(comm).wait();
    exchange.verify();
  }
}

void work_until_terminated(Communicator& comm) {
  comm.barrier();
  announce(comm);
  for (int i = 0; i < 2000 && !g_terminated; ++i) sleep_ms(5);
  fail(ErrorKind::cancelled, "cancelled");
}

void run_mode(const std::string& mode, Communicator& comm) {
  const int last = comm.world() - 1;
  if (mode == "exchange") {
    exchange_cases::everything(comm, 60);
    if (testing::Test::HasFailure()) fail(ErrorKind::internal, "a case failed");
  } else if (mode == "exchange-little") {
    exchange_cases::all_to_all_rounds(comm, 40, 100);
    if (testing::Test::HasFailure()) fail(ErrorKind::internal, "a case failed");
  } else if (mode == "exchange-until-stopped") {
    exchange_until_stopped(comm, false);
  } else if (mode == "exchange-much-until-stopped") {
    exchange_until_stopped(comm, true);
  } else if (mode == "work-until-terminated") {
    work_until_terminated(comm);
  } else if (mode == "throw") {
    comm.barrier();
    if (comm.rank() == last) fail(ErrorKind::out_of_memory, "no room for the weights");
    comm.barrier();
  } else if (mode == "throw-under-way") {
    exchange_cases::AllToAll exchange(comm, 3, 8 << 20);
    Pending pending = exchange.start(comm);
    if (comm.rank() == last) fail(ErrorKind::out_of_memory, "no room for the weights");
    pending.wait();
    comm.barrier();
  } else if (mode == "throw-with-stuck-sends") {
    // The others are busy elsewhere: nobody takes what the last rank sends.
    exchange_cases::AllToAll exchange(comm, 3, 8 << 20);
    comm.barrier();
    if (comm.rank() == last) {
      const Pending pending = exchange.start(comm);
      fail(ErrorKind::out_of_memory, "no room for the weights");
    }
    sleep_ms(1500);
    comm.barrier();
  } else if (mode == "throw-with-a-send-that-is-met-late") {
    // Rank 0 has posted its receive before the failure, and lets MPI progress only when the sender's buffer is long
    // gone.
    constexpr size_t kBytes = 64 << 20;  // of its own pages, which the system takes back at once
    std::vector<std::byte> received(comm.rank() == 0 ? kBytes : 0);
    comm.barrier();
    if (comm.rank() == last) {
      const std::vector<std::byte> sent(kBytes, std::byte{7});
      const SendTo send{0, host_bytes(std::span(sent))};
      const Pending pending = comm.exchange("large", {&send, 1}, {});
      fail(ErrorKind::out_of_memory, "no room for the weights");
    }
    std::vector<ReceiveFrom> receives;
    if (comm.rank() == 0) receives.push_back({last, host_bytes(std::span(received))});
    Pending pending = comm.exchange("large", {}, receives);
    sleep_ms(comm.rank() == 0 ? 450 : 0);
    pending.wait();
    comm.barrier();
  } else if (mode == "sleep") {
    comm.barrier();
    announce(comm);
    if (comm.rank() == last) sleep_ms(60000);
    comm.barrier();
  } else if (mode == "late") {
    // The last rank comes after the time-out, while the others ask for it, and then works on before it waits.
    exchange_cases::AllToAll exchange(comm, 3, 500);
    comm.barrier();
    if (comm.rank() == last) sleep_ms(1500);
    Pending pending = exchange.start(comm);
    if (comm.rank() == last) sleep_ms(1500);
    pending.wait();
    exchange.verify();
    if (testing::Test::HasFailure()) fail(ErrorKind::internal, "a case failed");
  } else if (mode == "chain") {
    // Rank 0 waits for rank 1, which waits for rank 2, which sleeps.
    announce(comm);
    if (comm.rank() == 2) sleep_ms(60000);
    if (comm.rank() != 0) GroupCommunicator(comm, {1, 2}).barrier();
    comm.barrier();
  } else if (mode == "sizes-differ") {
    std::vector<std::byte> buffer(comm.rank() == 0 ? 7 : 8);
    comm.broadcast(host_bytes(std::span(buffer)), 0).wait();
    comm.barrier();
  } else if (mode == "return-early") {
    std::vector<std::byte> bytes(100);
    if (comm.rank() != last) comm.broadcast(host_bytes(std::span(bytes)), last).wait();
  } else {
    fail(ErrorKind::invalid_input, "unknown mode {}", mode);
  }
}

int report(int rank, const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& each) {
    const std::string line = "error of rank " + std::to_string(rank) + ": " + each.what() + "\n";
    std::fputs(line.c_str(), stderr);
    return exit_code(each.kind());
  }
}

int run(int argc, char** argv) {
  const auto option = [&](int index, const char* otherwise) {
    return std::string(argc > index ? argv[index] : otherwise);
  };
  MpiOptions options;
  options.timeout_s = std::atof(option(2, "0").c_str());
  options.piece_bytes = static_cast<size_t>(std::atoll(option(3, "268435456").c_str()));
  std::signal(SIGTERM, [](int) { g_terminated = true; });  // as the command line does
  int rank = -1;
  try {
    run_mpi_rank(
        [&](Communicator& comm) {
          rank = comm.rank();
          run_mode(option(1, ""), comm);
        },
        [&](std::exception_ptr error) { return report(rank, error); }, options);
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return exit_code(error.kind());
  }
  std::puts("done");
  return 0;
}

}  // namespace
}  // namespace nostos

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return nostos::run(argc, argv);
}
