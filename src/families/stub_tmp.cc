#include "base/error.h"
#include "ops/linear_update.h"
namespace nostos::ops {
LowRankTerm make_low_rank(Context&, ConstView, ConstView, DType) { fail(ErrorKind::internal, "stub"); }
KroneckerTerm make_kronecker(Context&, ConstView, ConstView, const KroneckerRows&, DType) { fail(ErrorKind::internal, "stub"); }
Linear make_difference(Context&, ConstView, DType) { fail(ErrorKind::internal, "stub"); }
}
