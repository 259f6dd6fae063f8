// Fuzzes the text of a product's plan in the user's cache folder: any text is no plan, or one whose orders name each
// algorithm once.
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "ops/cuda/plan_store.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  const cuda::Product product{3840, 11520, DType::bf16, DType::bf16, false, false, false};
  const std::string rest(reinterpret_cast<const char*>(data), size);
  cuda::parse_product_plan(rest, "key", product);
  const std::string begin = cuda::to_text("key", product, {});
  // Without the last line, `end`: what follows is algorithms and orders.
  const std::optional<cuda::ProductPlan> plan =
      cuda::parse_product_plan(begin.substr(0, begin.size() - 4) + rest, "key", product);
  if (!plan) return 0;
  check(!plan->algorithms.empty(), "a plan has algorithms");
  for (const auto& [rows, order] : plan->ranked) {
    check(rows > 0 && order.size() == plan->algorithms.size(), "an order is of all algorithms");
    check(std::accumulate(order.begin(), order.end(), size_t{0}) == order.size() * (order.size() - 1) / 2,
          "an order has each once");
  }
  const std::optional<cuda::ProductPlan> again =
      cuda::parse_product_plan(cuda::to_text("key", product, *plan), "key", product);
  check(again && again->ranked == plan->ranked, "a plan is read as it was written");
  return 0;
}
