// Implements the fair queue.
#include "scheduling/fair_queue.h"

#include <algorithm>

namespace nostos::scheduling {

void FairQueue::push(const std::string& client, const std::string& id) {
  const auto turn = std::ranges::find(turns_, client, &Turn::client);
  if (turn != turns_.end())
    turn->ids.push_back(id);
  else
    turns_.push_back({client, {id}});
}

void FairQueue::put_back(const std::string& client, const std::string& id) {
  const auto turn = std::ranges::find(turns_, client, &Turn::client);
  if (turn == turns_.end())
    turns_.push_front({client, {}});
  else
    turns_.splice(turns_.begin(), turns_, turn);
  turns_.front().ids.push_front(id);
}

std::optional<std::string> FairQueue::pop() {
  if (turns_.empty()) return std::nullopt;
  Turn& turn = turns_.front();
  std::string id = std::move(turn.ids.front());
  turn.ids.pop_front();
  if (turn.ids.empty())
    turns_.pop_front();
  else
    turns_.splice(turns_.end(), turns_, turns_.begin());
  return id;
}

bool FairQueue::remove(const std::string& id) {
  for (auto turn = turns_.begin(); turn != turns_.end(); ++turn) {
    if (std::erase(turn->ids, id) == 0) continue;
    if (turn->ids.empty()) turns_.erase(turn);
    return true;
  }
  return false;
}

std::vector<std::string> FairQueue::order() const {
  std::vector<std::string> ids;
  for (size_t round = 0, before = 1; ids.size() != before; ++round) {
    before = ids.size();
    for (const Turn& turn : turns_) {
      if (round < turn.ids.size()) ids.push_back(turn.ids[round]);
    }
  }
  return ids;
}

size_t FairQueue::size() const {
  size_t total = 0;
  for (const Turn& turn : turns_) total += turn.ids.size();
  return total;
}

}  // namespace nostos::scheduling
