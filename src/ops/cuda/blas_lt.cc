// Implements the calls of cuBLASLt.
#include "ops/cuda/blas_lt.h"

#include <numeric>

#include "base/error.h"
#include "device/cuda/check.h"

namespace nostos::cuda {
namespace {

void check_blas(cublasStatus_t status, const Product& product, int64_t rows, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  check_not_lost("cuBLASLt failed");
  fail(status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorKind::out_of_memory : ErrorKind::internal,
       "cuBLASLt cannot {} a product of [{}, {}] by [{}, {}] in {}: {}", what, rows, product.in, product.in,
       product.out, name(product.x), cublasLtGetStatusString(status));
}

cudaDataType_t cuda_type(DType dtype) {
  nostos::check(dtype == DType::f32 || dtype == DType::bf16, "products are f32 or bf16");
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// A product as the library sees it: column-major, so that y^T [out, rows] = W x^T.
struct Description {
  Description(const Product& product, int64_t rows, const float* bias) {
    const auto in = static_cast<uint64_t>(product.in), out = static_cast<uint64_t>(product.out),
               columns = static_cast<uint64_t>(rows);
    cublasLtMatmulDescInit(&operation, product.x == DType::bf16 ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_32F_PEDANTIC,
                           CUDA_R_32F);
    const cublasOperation_t weight_operation = product.weight_is_in_out ? CUBLAS_OP_N : CUBLAS_OP_T;
    set(CUBLASLT_MATMUL_DESC_TRANSA, weight_operation);
    if (product.bias) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    }
    const cudaDataType_t x_type = cuda_type(product.x);
    if (product.weight_is_in_out)
      cublasLtMatrixLayoutInit(&weight, x_type, out, in, product.out);
    else
      cublasLtMatrixLayoutInit(&weight, x_type, in, out, product.in);
    cublasLtMatrixLayoutInit(&x, x_type, in, columns, product.in);
    cublasLtMatrixLayoutInit(&y, cuda_type(product.y), out, columns, product.out);
  }

  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof value);
  }

  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t weight, x, y;
};

}  // namespace

BlasLt::BlasLt(Context& ctx) : ctx_(ctx), workspace_(ctx.device(), kWorkspaceBytes) {
  ctx.bind_thread();
  const cublasStatus_t status = cublasLtCreate(&handle_);
  const bool lacks_memory = status == CUBLAS_STATUS_ALLOC_FAILED;
  require(status == CUBLAS_STATUS_SUCCESS, lacks_memory ? ErrorKind::out_of_memory : ErrorKind::device,
          "cannot start cuBLASLt on {}: {}", to_string(ctx.device()), cublasLtGetStatusString(status));
}

BlasLt::~BlasLt() { cublasLtDestroy(handle_); }

std::vector<cublasLtMatmulAlgo_t> BlasLt::candidates(const Product& product, int64_t rows) const {
  Description description(product, rows, nullptr);
  cublasLtMatmulPreferenceOpaque_t preference;
  cublasLtMatmulPreferenceInit(&preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
  // Operands may be rows of larger tensors, whose addresses are multiples of a row only.
  const auto alignment = [](int64_t row_elements, DType dtype) {
    return static_cast<uint32_t>(std::gcd(int64_t{16}, row_elements * static_cast<int64_t>(size_bytes(dtype))));
  };
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
         alignment(product.weight_is_in_out ? product.out : product.in, product.x));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(product.in, product.x));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(product.out, product.y));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(product.out, product.y));
  cublasLtMatmulHeuristicResult_t results[kCandidates];
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, &description.operation, &description.weight, &description.x,
                                     &description.y, &description.y, &preference, kCandidates, results, &count);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check_blas(status, product, rows, "plan");
  std::vector<cublasLtMatmulAlgo_t> found;
  for (int i = 0; i < count; ++i) {
    if (results[i].state == CUBLAS_STATUS_SUCCESS) found.push_back(results[i].algo);
  }
  return found;
}

bool BlasLt::supports(const Product& product, int64_t rows, const cublasLtMatmulAlgo_t& algorithm) const {
  Description description(product, rows, nullptr);
  cublasLtMatmulHeuristicResult_t result;
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle_, &description.operation, &description.weight, &description.x, &description.y,
                              &description.y, &algorithm, &result);
  return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspaceBytes;
}

void BlasLt::run(const Product& product, int64_t rows, const cublasLtMatmulAlgo_t& algorithm,
                 const ProductOperands& operands) const {
  Description description(product, rows, operands.bias);
  const float one = 1, beta = product.accumulate ? 1 : 0;
  check_blas(cublasLtMatmul(handle_, &description.operation, &one, operands.weight, &description.weight, operands.x,
                            &description.x, &beta, operands.y, &description.y, operands.y, &description.y, &algorithm,
                            workspace_.data(), kWorkspaceBytes, ctx_.stream().handle()),
             product, rows, "run");
}

}  // namespace nostos::cuda
