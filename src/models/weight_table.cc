// Implements the table of a model's weights.
#include "models/weight_table.h"

#include "base/error.h"

namespace nostos {

void add_places(WeightTable& table, std::initializer_list<const Linear*> weights) {
  for (const Linear* weight : weights) {
    for (const NamedRows& rows : weight->rows)
      check(table.emplace(rows.name, WeightPlace{weight, &rows}).second, "a checkpoint's matrix is loaded once");
  }
}

}  // namespace nostos
