// Owns the order of waiting jobs: clients take turns, each client's jobs stay in order.
#pragma once

#include <deque>
#include <list>
#include <optional>
#include <string>
#include <vector>

namespace nostos::scheduling {

/// One thread at a time.
class FairQueue {
 public:
  void push(const std::string& client, const std::string& id);
  /// Puts a job in front of all others, whose turn it was before.
  void put_back(const std::string& client, const std::string& id);
  /// \return the next job; its client's next turn comes after those of all others.
  std::optional<std::string> pop();
  /// \return whether the job was waiting.
  bool remove(const std::string& id);
  /// \return the jobs as pop() would give them.
  std::vector<std::string> order() const;
  size_t size() const;

 private:
  struct Turn {
    std::string client;
    std::deque<std::string> ids;  ///< never empty
  };
  std::list<Turn> turns_;  ///< the front's is next
};

}  // namespace nostos::scheduling
