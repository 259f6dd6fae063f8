// Tests that signals reach a thread of their own, and that the second ends the process.
#include "apps/cli/interrupt.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <thread>

namespace nostos::cli {
namespace {

/// Waits for the flag of a process of its own, sends the signal again, and says how it went by an exit code.
[[noreturn]] void interrupt_twice(int signal) {
  using namespace std::chrono_literals;
  const std::atomic<bool>& interrupted = catch_interrupts();
  sigset_t blocked;
  pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  bool is_held = sigismember(&blocked, signal) == 1;
  std::thread([&is_held, signal] {  // one that works
    sigset_t inherited;
    pthread_sigmask(SIG_SETMASK, nullptr, &inherited);
    is_held = is_held && sigismember(&inherited, signal) == 1;
  })
      .join();
  if (!is_held) std::_Exit(3);
  if (interrupted) std::_Exit(4);
  kill(getpid(), signal);
  for (int i = 0; i < 500 && !interrupted; ++i) std::this_thread::sleep_for(10ms);
  if (!interrupted) std::_Exit(5);
  kill(getpid(), signal);
  std::this_thread::sleep_for(5s);
  std::_Exit(6);
}

TEST(InterruptDeathTest, AThreadOfTheirOwnGetsTheSignals) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  for (const int signal : {SIGINT, SIGTERM})
    EXPECT_EXIT(interrupt_twice(signal), testing::KilledBySignal(signal), "") << signal;
}

}  // namespace
}  // namespace nostos::cli
