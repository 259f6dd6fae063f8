// Implements rules of names, and finding the layout of a file.
#include "models/checkpoint_layout.h"

#include <algorithm>
#include <charconv>

namespace nostos {
namespace {

/// What the wild cards of a rule stand for.
struct WildCards {
  std::vector<std::string_view> numbers, texts;
};

/// \return whether `pattern` fits all of `name`. \param found is added to, and is as before if it does not fit.
bool fits(std::string_view pattern, std::string_view name, WildCards& found) {
  if (pattern.empty() || name.empty()) return pattern.empty() && name.empty();
  const std::string_view rest = pattern.substr(1);
  if (pattern[0] == '#') {
    const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
    found.numbers.push_back(name.substr(0, digits));
    if (digits > 0 && fits(rest, name.substr(digits), found)) return true;
    found.numbers.pop_back();
    return false;
  }
  if (pattern[0] == '*') {
    for (size_t length = 1; length <= name.size(); ++length) {
      found.texts.push_back(name.substr(0, length));
      if (fits(rest, name.substr(length), found)) return true;
      found.texts.pop_back();
    }
    return false;
  }
  return pattern[0] == name[0] && fits(rest, name.substr(1), found);
}

std::string counted_back(std::string_view number, int64_t last) {
  int64_t value = 0;
  std::from_chars(number.data(), number.data() + number.size(), value);
  return std::to_string(last - value);
}

std::string fill_in(std::string_view pattern, const WildCards& found, int64_t last_level) {
  std::string name;
  auto number = found.numbers.begin(), text = found.texts.begin();
  for (const char c : pattern) {
    if (c == '#')
      name += *number++;
    else if (c == '~')
      name += counted_back(*number++, last_level);
    else if (c == '*')
      name += *text++;
    else
      name += c;
  }
  return name;
}

}  // namespace

std::vector<TensorRows> find_as_named(const std::string& name) { return {{name}}; }

std::vector<TensorRows> find_by_rules(std::span<const NameRule> rules, const std::string& name, int64_t last_level) {
  WildCards found;
  auto rule = std::ranges::find_if(rules, [&](const NameRule& each) { return fits(each.name, name, found); });
  if (rule == rules.end()) return find_as_named(name);
  std::vector<TensorRows> rows;
  for (const std::string_view pattern = rule->name; rule != rules.end() && rule->name == pattern; ++rule)
    rows.push_back({fill_in(rule->in_file, found, last_level), rule->part, rule->parts});
  return rows;
}

std::optional<FoundLayout> find_layout(const std::function<bool(const std::string& name)>& has,
                                       std::span<const CheckpointLayout> layouts,
                                       std::span<const std::string_view> prefixes) {
  for (const std::string_view prefix : prefixes) {
    const auto has_mark = [&](std::string_view mark) { return has(std::string(prefix).append(mark)); };
    for (const CheckpointLayout& layout : layouts)
      if (has_mark(layout.mark) && (layout.second_mark.empty() || has_mark(layout.second_mark)))
        return FoundLayout{&layout, prefix};
  }
  return std::nullopt;
}

}  // namespace nostos
