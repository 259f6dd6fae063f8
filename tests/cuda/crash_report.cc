// A library that gpu_check.sh loads into every process: one that crashes, be it at its very end, says where.
//
// Lines read PROGRAM(+0xOFFSET); `addr2line -Cfie PROGRAM 0xOFFSET` on the program as it was built, unstripped, names
// the source.
#include <execinfo.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstring>
#include <initializer_list>

namespace {

constexpr int kFrames = 64;

void say(const char* text) {
  if (write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

/// Says what ended the process, and lets it end so.
void report(int signal) {
  void* frames[kFrames];
  const int count = backtrace(frames, kFrames);
  say("crash: ");
  say(strsignal(signal));
  say("\n");
  backtrace_symbols_fd(frames, count, STDERR_FILENO);
  std::signal(signal, SIG_DFL);
  raise(signal);
}

[[gnu::constructor]] void watch() {
  void* frame = nullptr;
  backtrace(&frame, 1);  // loads what it needs now: later the heap may be damaged
  static std::byte stack[size_t{1} << 16];
  stack_t other{};
  other.ss_sp = stack;
  other.ss_size = sizeof stack;
  sigaltstack(&other, nullptr);
  struct sigaction action {};
  action.sa_handler = report;
  action.sa_flags = SA_ONSTACK;
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL}) sigaction(signal, &action, nullptr);
}

}  // namespace
