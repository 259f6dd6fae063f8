// Stands in for OpenMP's header in builds without it, where every parallel loop runs on the thread that reaches it.
#pragma once

#include <sched.h>

inline int omp_get_num_procs() {
  cpu_set_t allowed;
  return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
}
inline void omp_set_num_threads(int) {}
inline int omp_get_thread_num() { return 0; }
