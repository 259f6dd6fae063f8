// Implements the two steps of Ctrl-C.
#include "apps/cli/interrupt.h"

#include <unistd.h>

#include <csignal>
#include <thread>

namespace nostos::cli {
namespace {

// A signal handler can reach nothing but a global.
std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void on_interrupt(int) {
  interrupted = true;
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

const std::atomic<bool>& catch_interrupts() {
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
  // oneDNN's float32 products for AVX2 work with the stack pointer in the heap: a handler's frame there would overwrite
  // what is next to them.
  std::thread([] {
    for (;;) pause();
  }).detach();
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return interrupted;
}

}  // namespace nostos::cli
