// Implements the table of a model's weights.
#include "models/weight_table.h"

#include <algorithm>

#include "base/error.h"

namespace nostos {

void add_places(WeightTable& table, std::initializer_list<const Linear*> weights) {
  for (const Linear* weight : weights) {
    for (const NamedRows& rows : weight->rows) {
      const auto [first, last] = table.equal_range(rows.name);
      check(std::none_of(first, last,
                         [&](const auto& known) {
                           const NamedRows& other = *known.second.rows;
                           return other.from_row == rows.from_row && other.from_column == rows.from_column;
                         }),
            "a part of a checkpoint's matrix is loaded once");
      table.emplace(rows.name, WeightPlace{weight, &rows});
    }
  }
}

}  // namespace nostos
