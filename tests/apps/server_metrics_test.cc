// Tests metrics' text.
#include "apps/server/metrics.h"

#include <gtest/gtest.h>

namespace nostos::server {
namespace {

TEST(Metrics, TextHasTypesLabelsAndCumulativeBuckets) {
  Metrics metrics;
  metrics.add("jobs_total", "status=\"completed\"");
  metrics.add("jobs_total", "status=\"completed\"", 2);
  metrics.observe("seconds", "stage=\"text\"", 0.003);
  metrics.observe("seconds", "stage=\"text\"", 1000);
  const std::string text = metrics.text({{"queue_length", 4}});
  for (const char* line :
       {"# TYPE queue_length gauge\nqueue_length 4\n",
        "# TYPE jobs_total counter\njobs_total{status=\"completed\"} 3\n", "# TYPE seconds histogram\n",
        "seconds_bucket{stage=\"text\",le=\"0.0025\"} 0\n", "seconds_bucket{stage=\"text\",le=\"0.005\"} 1\n",
        "seconds_bucket{stage=\"text\",le=\"600\"} 1\n", "seconds_bucket{stage=\"text\",le=\"+Inf\"} 2\n",
        "seconds_sum{stage=\"text\"} 1000.003\n", "seconds_count{stage=\"text\"} 2\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << "in\n" << text;
}

}  // namespace
}  // namespace nostos::server
