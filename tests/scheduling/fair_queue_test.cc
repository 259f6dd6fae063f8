// Tests the order of waiting jobs.
#include "scheduling/fair_queue.h"

#include <gtest/gtest.h>

namespace nostos::scheduling {
namespace {

std::vector<std::string> drained(FairQueue queue) {
  std::vector<std::string> ids;
  while (const auto id = queue.pop()) ids.push_back(*id);
  return ids;
}

TEST(FairQueue, ClientsTakeTurnsAndKeepTheirOrder) {
  FairQueue queue;
  for (const char* id : {"a1", "a2", "a3", "b1", "c1", "b2"}) queue.push(std::string(1, id[0]), id);
  const std::vector<std::string> expected{"a1", "b1", "c1", "a2", "b2", "a3"};
  EXPECT_EQ(queue.order(), expected);
  EXPECT_EQ(drained(queue), expected);
}

TEST(FairQueue, OrderTellsWhatPopGivesAfterAnyHistory) {
  FairQueue queue;
  uint32_t state = 1;
  for (int step = 0; step < 2000; ++step) {
    state = state * 1664525 + 1013904223;
    const uint32_t choice = state >> 28, client = state >> 20 & 3;
    if (choice < 9) {
      queue.push(std::to_string(client), std::to_string(step));
    } else if (choice < 13) {
      queue.pop();
    } else if (queue.size() > 0) {
      EXPECT_TRUE(queue.remove(queue.order()[state % queue.size()]));
    }
    const std::vector<std::string> order = queue.order();
    ASSERT_EQ(order.size(), queue.size());
    ASSERT_EQ(order, drained(queue)) << "step " << step;
  }
}

TEST(FairQueue, ServedClientsWaitForAllOthers) {
  FairQueue queue;
  queue.push("a", "a1");
  queue.push("a", "a2");
  queue.push("b", "b1");
  EXPECT_EQ(queue.pop(), "a1");
  queue.push("c", "c1");
  EXPECT_EQ(queue.order(), (std::vector<std::string>{"b1", "a2", "c1"}));
  EXPECT_FALSE(queue.remove("a1"));
}

TEST(FairQueue, WhatIsPutBackFromTheLastOnIsWhereItWas) {
  FairQueue queue;
  for (const char* id : {"a1", "a2", "b1", "c1", "b2"}) queue.push(std::string(1, id[0]), id);
  const std::vector<std::string> before = queue.order();
  std::vector<std::string> taken;
  for (int i = 0; i < 4; ++i) taken.push_back(*queue.pop());
  for (auto id = taken.rbegin(); id != taken.rend(); ++id) queue.put_back(id->substr(0, 1), *id);
  EXPECT_EQ(queue.order(), before);
}

}  // namespace
}  // namespace nostos::scheduling
