// Owns what Ctrl-C does: the first asks the work to stop, the second kills.
#pragma once

#include <atomic>

namespace nostos::cli {

/// Catches the next SIGINT or SIGTERM and leaves those after it to the system, which ends the process. To be called
/// before the threads that work are started: from then on another thread, which does nothing else, gets these signals.
/// \return the flag that the caught signal sets; it lives as long as the process.
const std::atomic<bool>& catch_interrupts();

}  // namespace nostos::cli
