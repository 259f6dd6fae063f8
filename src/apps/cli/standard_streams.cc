// Implements writing to the standard streams.
#include "apps/cli/standard_streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace nostos::cli {

void prepare_standard_streams() {
  std::signal(SIGPIPE, SIG_IGN);
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(descriptor, F_GETFD) != -1 || errno != EBADF) continue;
    // open() gives the lowest number that is free: this one. The wrong direction has every use fail, as if closed.
    static_cast<void>(open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY));
  }
}

void write_output(std::string_view text) { static_cast<void>(std::fwrite(text.data(), 1, text.size(), stdout)); }

void write_error(std::string_view text) { static_cast<void>(std::fwrite(text.data(), 1, text.size(), stderr)); }

void flush_output() {
  errno = 0;
  const bool flushed = std::fflush(stdout) == 0;
  require(flushed && std::ferror(stdout) == 0, ErrorKind::internal, "standard output cannot be written{}{}",
          errno == 0 ? "" : ": ", errno == 0 ? "" : std::strerror(errno));
}

}  // namespace nostos::cli
