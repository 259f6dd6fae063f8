// Stands in for cuBLASLt's header where the text of plans is read without CUDA: the types that it names.
#pragma once

#include <cstdint>

struct cublasLtMatmulAlgo_t {
  uint64_t data[8];
};
using cublasLtHandle_t = struct cublasLtContext*;
