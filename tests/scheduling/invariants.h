// Owns what every decision must keep, whatever the state: tests of the policy check each decision by it.
#pragma once

#include "scheduling/policy.h"

namespace nostos::scheduling {

/// Fails the test where the decision breaks a promise of decide().
void expect_keeps_promises(const State& state, const Decision& decision, const CostModel& costs);

/// \return the state once the decision has been carried out: all lanes are past their next step's boundary.
State carried_out(const State& state, const Decision& decision);

}  // namespace nostos::scheduling
