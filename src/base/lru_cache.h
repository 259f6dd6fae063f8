// Owns caches that do not grow without end: what was not used for the longest time goes first.
#pragma once

#include <cstddef>
#include <functional>
#include <iterator>
#include <list>
#include <map>
#include <utility>

namespace nostos {

/// Values by key, as many as have room. One thread at a time.
template <class Key, class Value>
class LruCache {
 public:
  /// \param most the costs of all values together; the value inserted last stays whatever it costs.
  explicit LruCache(size_t most) : most_(most) {}

  /// \return the value of `key`, which becomes the one used last, or null. It stays in its place until an insert() or
  /// erase() removes it.
  template <class Like>
  Value* find(const Like& key) {
    const auto known = places_.find(key);
    if (known == places_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, known->second);
    return &entries_.front().value;
  }

  /// Keeps the value in place of one of the same key, and of those used the longest time ago where there is no room.
  /// \return where it stands.
  Value& insert(Key key, Value value, size_t cost = 1) {
    erase(key);
    const auto place = places_.emplace(std::move(key), entries_.end()).first;
    entries_.push_front({place, std::move(value), cost});
    place->second = entries_.begin();
    cost_ += cost;
    trim(most_);
    return entries_.front().value;
  }

  /// Removes those used the longest time ago until all cost at most `most`, or one is left.
  void trim(size_t most) {
    while (cost_ > most && entries_.size() > 1) remove(std::prev(entries_.end()));
  }

  template <class Like>
  void erase(const Like& key) {
    const auto known = places_.find(key);
    if (known != places_.end()) remove(known->second);
  }
  void clear() {
    places_.clear();
    entries_.clear();
    cost_ = 0;
  }

  size_t size() const { return entries_.size(); }
  /// Calls visit(key, value) for all, the one used last first.
  template <class Visit>
  void for_each(const Visit& visit) const {
    for (const Entry& entry : entries_) visit(entry.place->first, entry.value);
  }

 private:
  struct Entry;
  using Entries = std::list<Entry>;
  using Places = std::map<Key, typename Entries::iterator, std::less<>>;
  struct Entry {
    typename Places::iterator place;
    Value value;
    size_t cost;
  };

  void remove(typename Entries::iterator entry) {
    cost_ -= entry->cost;
    places_.erase(entry->place);
    entries_.erase(entry);
  }

  size_t most_;
  size_t cost_ = 0;
  Entries entries_;  // the one used last first
  Places places_;
};

}  // namespace nostos
