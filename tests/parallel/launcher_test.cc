// Tests how a launcher and its processes are recognised.
#include "parallel/launcher.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <future>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "parallel/mpi_communicator.h"
#include "parallel/peer_watch.h"

namespace nostos {
namespace {

std::optional<Launcher> find(const std::map<std::string, std::string>& environment) {
  return find_launcher([&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

TEST(Launcher, IsKnownByItsVariables) {
  EXPECT_EQ(find({}), std::nullopt);
  EXPECT_EQ(find({{"OMPI_COMM_WORLD_SIZE", "3"}, {"PMIX_RANK", "0"}}), (Launcher{"mpirun", 3}));
  EXPECT_EQ(find({{"OMPI_COMM_WORLD_SIZE", "1"}}), (Launcher{"mpirun", 1}));
  for (const char* rank : {"PMIX_RANK", "PMI_RANK"})
    EXPECT_EQ(find({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "16"}, {rank, "3"}}), (Launcher{"srun", 16}));
  EXPECT_EQ(find({{"PMIX_RANK", "4"}}), (Launcher{"a PMIx launcher", 0}));
}

TEST(Launcher, ABatchScriptIsNoRank) {
  EXPECT_EQ(find({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "16"}, {"SLURM_PROCID", "0"}}), std::nullopt);
}

TEST(Launcher, RanksOfSrunThatCannotFindEachOtherAreAnError) {
  EXPECT_EQ(find({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}), std::nullopt);
  try {
    find({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}});
    ADD_FAILURE() << "took ranks without PMIx";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    EXPECT_NE(std::string(error.what()).find("--mpi=pmix"), std::string::npos);
  }
}

TEST(Launcher, ANumberOfRanksThatIsNoneIsAnError) {
  for (const char* world : {"", "0", "-2", "two", "3x", "99999999999"}) {
    try {
      find({{"OMPI_COMM_WORLD_SIZE", world}});
      ADD_FAILURE() << "took " << world;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
      EXPECT_NE(std::string(error.what()).find("OMPI_COMM_WORLD_SIZE"), std::string::npos);
    }
  }
}

/// A process that lives until the test lets go of it.
class Child {
 public:
  /// \param descriptor of the test, which the child closes at its end alone; -1 for none
  explicit Child(int descriptor = -1) {
    EXPECT_EQ(pipe(held_.data()), 0);
    pid_ = fork();
    if (pid_ != 0) {
      close(held_[0]);
      if (descriptor >= 0) close(descriptor);
      return;
    }
    char byte;
    close(held_[1]);
    _exit(static_cast<int>(read(held_[0], &byte, 1)));
  }
  /// Lets it end. Without reaping it, as the launcher's ranks do not reap one another.
  void end() { close(std::exchange(held_[1], -1)); }
  ~Child() {
    if (held_[1] >= 0) end();
    waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }

 private:
  std::array<int, 2> held_{};
  pid_t pid_ = 0;
};

/// \return this process as often as asked.
std::vector<ProcessIdentity> these_processes(size_t count) {
  return std::vector<ProcessIdentity>(count, this_process());
}

/// \return the number that the watch gives away, or -1 after two seconds.
int told_end(std::future<int>& told) {
  return told.wait_for(std::chrono::seconds(2)) == std::future_status::ready ? told.get() : -1;
}

TEST(PeerWatch, SeesAProcessEnd) {
  Child child;
  std::vector<ProcessIdentity> processes = these_processes(3);
  processes[1].pid = child.pid();
  processes[2].host[0] ^= 1;  // elsewhere: its number means nothing here
  processes[2].pid = 1 << 30;
  std::promise<int> end;
  std::future<int> told = end.get_future();
  PeerWatch watch(processes, 0);
  watch.start([&end](int rank) { end.set_value(rank); });
  usleep(10000);
  EXPECT_EQ(watch.first_ended(), std::nullopt);
  EXPECT_FALSE(watch.has_ended(1));
  child.end();
  EXPECT_EQ(told_end(told), 1);
  EXPECT_EQ(watch.first_ended(), 1);
  EXPECT_TRUE(watch.has_ended(1));
  EXPECT_FALSE(watch.has_ended(0));
  EXPECT_FALSE(watch.has_ended(2));
}

TEST(PeerWatch, StopsWhileAllLive) {
  Child child;
  std::vector<ProcessIdentity> processes = these_processes(2);
  processes[1].pid = child.pid();
  PeerWatch watch(processes, 0);
  watch.start([](int rank) { ADD_FAILURE() << "rank " << rank << " lives"; });
  watch.stop();
  child.end();
  usleep(10000);
  EXPECT_EQ(watch.first_ended(), std::nullopt);
}

/// Both ends of a connection through the loopback device, or -1 where there is none.
std::pair<int, int> connect_to_self() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  int server = -1;
  if (bind(listener, name, sizeof address) == 0 && listen(listener, 1) == 0 &&
      getsockname(listener, name, &bytes) == 0 && connect(client, name, sizeof address) == 0) {
    server = accept(listener, nullptr, nullptr);
  }
  close(listener);
  return {client, server};
}

TEST(PeerWatch, SeesAConnectionToAnotherHostEnd) {
  const auto [own, theirs] = connect_to_self();
  const auto [unrelated, unrelated_end] = connect_to_self();
  if (theirs < 0 || unrelated_end < 0) GTEST_SKIP() << "there is no loopback device";
  const std::vector<TcpConnection> all = tcp_connections();
  ASSERT_GE(all.size(), 4);
  const auto of = [&all](int descriptor) { return *std::ranges::find(all, descriptor, &TcpConnection::descriptor); };
  EXPECT_EQ(of(own).local, of(theirs).remote);
  EXPECT_EQ(of(own).remote, of(theirs).local);
  EXPECT_NE(of(own).local.port, of(unrelated).local.port);

  std::vector<ProcessIdentity> processes = these_processes(2);
  processes[1].host[0] ^= 1;
  std::promise<int> end;
  std::future<int> told = end.get_future();
  PeerWatch watch(processes, 0);
  watch.add_connections(1, std::vector{of(own), of(unrelated)}, std::vector{of(theirs)});
  watch.start([&end](int rank) { end.set_value(rank); });
  close(unrelated_end);
  ASSERT_EQ(write(theirs, "x", 1), 1);  // bytes that nobody reads yet are no end
  usleep(10000);
  EXPECT_EQ(watch.first_ended(), std::nullopt);
  EXPECT_FALSE(watch.has_ended(1));
  {
    const Child holder(theirs);  // the end of a process closes what it held
    usleep(10000);
    EXPECT_FALSE(watch.has_ended(1));
  }
  EXPECT_EQ(told_end(told), 1);
  EXPECT_TRUE(watch.has_ended(1));
  close(own);
  close(unrelated);
}

// The library that made a connection closes it, and a client gets its number.
TEST(PeerWatch, IsNotMisledByWhatGetsTheNumberOfAConnection) {
  const auto [own, theirs] = connect_to_self();
  const auto [client, client_end] = connect_to_self();
  if (theirs < 0 || client_end < 0) GTEST_SKIP() << "there is no loopback device";
  const std::vector<TcpConnection> all = tcp_connections();
  const auto of = [&all](int descriptor) { return *std::ranges::find(all, descriptor, &TcpConnection::descriptor); };
  std::vector<ProcessIdentity> processes = these_processes(2);
  processes[1].host[0] ^= 1;
  std::promise<int> end;
  std::future<int> told = end.get_future();
  PeerWatch watch(processes, 0);
  watch.add_connections(1, std::vector{of(own)}, std::vector{of(theirs)});
  ASSERT_EQ(dup2(client, own), own);
  close(client);
  watch.start([&end](int rank) { end.set_value(rank); });
  close(client_end);
  usleep(10000);
  EXPECT_EQ(watch.first_ended(), std::nullopt);
  EXPECT_FALSE(watch.has_ended(1));
  close(theirs);
  EXPECT_EQ(told_end(told), 1);
  close(own);
}

TEST(PeerWatch, LetsGoOfConnectionsWhenItStops) {
  const auto [own, theirs] = connect_to_self();
  if (theirs < 0) GTEST_SKIP() << "there is no loopback device";
  const std::vector<TcpConnection> all = tcp_connections();
  const auto of = [&all](int descriptor) { return *std::ranges::find(all, descriptor, &TcpConnection::descriptor); };
  PeerWatch watch(these_processes(1), 0);
  watch.add_connections(1, std::vector{of(own)}, std::vector{of(theirs)});
  watch.start([](int) {});
  watch.stop();
  close(own);
  char byte;
  EXPECT_EQ(recv(theirs, &byte, 1, MSG_DONTWAIT), 0);  // nobody holds the other end any more
  close(theirs);
}

// An error that lasts, e.g. more descriptors than the process may have by now, is no reason to ask again for ever.
TEST(PeerWatch, EndsWhereTheSystemRefusesToWatch) {
  constexpr int kWatched = 40;
  const Child child;
  std::vector<ProcessIdentity> processes = these_processes(1 + kWatched);
  for (int rank = 1; rank <= kWatched; ++rank) processes[static_cast<size_t>(rank)].pid = child.pid();
  testing::internal::CaptureStderr();
  const std::array low{dup(0), dup(0)};
  PeerWatch watch(processes, 0);
  for (const int descriptor : low) close(descriptor);  // numbers for what start() opens
  rlimit usual{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &usual), 0);
  const rlimit few{static_cast<rlim_t>(low[1] + 1), usual.rlim_max};  // fewer than are watched
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  watch.start([](int rank) { ADD_FAILURE() << "rank " << rank << " lives"; });
  std::future<void> stopped = std::async(std::launch::async, [&watch] { watch.stop(); });
  const bool has_stopped = stopped.wait_for(std::chrono::seconds(5)) == std::future_status::ready;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &usual), 0);
  stopped.get();
  const std::string written = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(has_stopped);
  EXPECT_NE(written.find("warning: cannot watch the other ranks' processes"), std::string::npos) << written;
}

TEST(Mpi, ABuildWithoutItSaysSo) {
  if (built_with_mpi()) GTEST_SKIP() << "this build has MPI";
  try {
    run_mpi_rank([](Communicator&) { ADD_FAILURE(); }, [](std::exception_ptr) { return 1; });
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::device);
    EXPECT_NE(std::string(error.what()).find("NOSTOS_MPI"), std::string::npos);
  }
}

}  // namespace
}  // namespace nostos
