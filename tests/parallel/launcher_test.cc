// Tests how a launcher and its processes are recognised.
#include "parallel/launcher.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
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
  EXPECT_EQ(find({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "16"}}), (Launcher{"srun", 16}));
  EXPECT_EQ(find({{"PMIX_RANK", "4"}}), (Launcher{"a PMIx launcher", 0}));
}

TEST(Launcher, ABatchScriptIsNoRank) {
  EXPECT_EQ(find({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "16"}, {"SLURM_PROCID", "0"}}), std::nullopt);
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

TEST(PeerWatch, SeesAProcessEnd) {
  int held[2];
  ASSERT_EQ(pipe(held), 0);
  const pid_t child = fork();
  if (child == 0) {
    char byte;
    close(held[1]);
    _exit(static_cast<int>(read(held[0], &byte, 1)));  // until the test lets go
  }
  close(held[0]);
  std::vector<ProcessIdentity> processes(3, this_process());
  processes[1].pid = child;
  processes[2].host[0] ^= 1;  // elsewhere: its number means nothing here
  processes[2].pid = 1 << 30;
  const PeerWatch watch(processes, 0);
  EXPECT_EQ(watch.find_ended(), std::nullopt);
  close(held[1]);
  // Without reaping it, as the launcher's ranks do not reap one another.
  for (int i = 0; i < 1000 && !watch.find_ended(); ++i) usleep(1000);
  EXPECT_EQ(watch.find_ended(), 1);
  EXPECT_TRUE(watch.has_ended(1));
  EXPECT_FALSE(watch.has_ended(0));
  EXPECT_FALSE(watch.has_ended(2));
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
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
