// Implements the endings of adapter files' keys.
#include "adapters/adapter_key.h"

#include <array>

#include "adapters/targets.h"

namespace nostos {
namespace {

struct Ending {
  std::string_view text;
  AdapterRole role;
  std::string_view kind = "";
};

/// Longer endings come before those that they end in.
constexpr std::array kEndings{
    Ending{".lora_A.weight", AdapterRole::down},
    Ending{".lora_B.weight", AdapterRole::up},
    Ending{".lora_B.bias", AdapterRole::up_bias},
    Ending{".lora_A", AdapterRole::down},
    Ending{".lora_B", AdapterRole::up},
    Ending{".weight.lora_a", AdapterRole::down},  // GGUF, as llama.cpp writes it
    Ending{".weight.lora_b", AdapterRole::up},
    Ending{".lora_down.weight", AdapterRole::down},
    Ending{".lora_up.weight", AdapterRole::up},
    Ending{".lora_down", AdapterRole::down},
    Ending{".lora_up", AdapterRole::up},
    Ending{".lora.down.weight", AdapterRole::down},
    Ending{".lora.up.weight", AdapterRole::up},
    Ending{".lora_linear_layer.down.weight", AdapterRole::down},
    Ending{".lora_linear_layer.up.weight", AdapterRole::up},
    Ending{".alpha", AdapterRole::alpha},
    Ending{".dora_scale", AdapterRole::magnitude},
    Ending{".lora_magnitude_vector.weight", AdapterRole::magnitude},
    Ending{".lora_magnitude_vector", AdapterRole::magnitude},
    Ending{".magnitude", AdapterRole::magnitude},
    Ending{".lokr_w1", AdapterRole::left},
    Ending{".lokr_w1_a", AdapterRole::left_up},
    Ending{".lokr_w1_b", AdapterRole::left_down},
    Ending{".lokr_w2", AdapterRole::right},
    Ending{".lokr_w2_a", AdapterRole::right_up},
    Ending{".lokr_w2_b", AdapterRole::right_down},
    Ending{".hada_w1_a", AdapterRole::first_up},
    Ending{".hada_w1_b", AdapterRole::first_down},
    Ending{".hada_w2_a", AdapterRole::second_up},
    Ending{".hada_w2_b", AdapterRole::second_down},
    Ending{".diff", AdapterRole::difference},
    Ending{".diff_b", AdapterRole::bias_difference},
    Ending{".w_norm", AdapterRole::difference},
    Ending{".b_norm", AdapterRole::bias_difference},
    Ending{".lora_mid.weight", AdapterRole::unknown_kind, "LoCon with a Tucker core (lora_mid)"},
    Ending{".lokr_t1", AdapterRole::unknown_kind, "LoKr with a Tucker core (lokr_t1)"},
    Ending{".lokr_t2", AdapterRole::unknown_kind, "LoKr with a Tucker core (lokr_t2)"},
    Ending{".hada_t1", AdapterRole::unknown_kind, "LoHa with a Tucker core (hada_t1)"},
    Ending{".hada_t2", AdapterRole::unknown_kind, "LoHa with a Tucker core (hada_t2)"},
    Ending{".oft_blocks", AdapterRole::unknown_kind, "OFT"},
    Ending{".oft_diag", AdapterRole::unknown_kind, "OFT"},
    Ending{".oft_R.weight", AdapterRole::unknown_kind, "OFT"},
    Ending{".a1.weight", AdapterRole::unknown_kind, "GLoRA"},
    Ending{".on_input", AdapterRole::unknown_kind, "IA3"},
    Ending{".ia3_l", AdapterRole::unknown_kind, "IA3"},
    Ending{".lora_E", AdapterRole::unknown_kind, "AdaLoRA"},
    Ending{".vera_lambda_b", AdapterRole::unknown_kind, "VeRA"},
    Ending{".set_weight", AdapterRole::unknown_kind, "a whole weight (set_weight)"},
};

}  // namespace

std::optional<AdapterKey> parse_adapter_key(std::string_view key) {
  constexpr std::string_view kDefault = ".default";  // PEFT's name for the only adapter of a model
  std::string plain(key);
  for (size_t at = plain.find(kDefault); at != std::string::npos; at = plain.find(kDefault, at)) {
    const size_t end = at + kDefault.size();
    if (end == plain.size() || plain[end] == '.')
      plain.erase(at, kDefault.size());
    else
      at = end;
  }
  for (const Ending& ending : kEndings) {
    if (plain.size() <= ending.text.size() || !plain.ends_with(ending.text)) continue;
    plain.resize(plain.size() - ending.text.size());
    return AdapterKey{canonical_name(plain), ending.role, ending.kind};
  }
  return std::nullopt;
}

}  // namespace nostos
