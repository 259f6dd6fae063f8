// Owns which tensor of an adapter file a key names: the module, and what the tensor is to it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nostos {

/// What a tensor of an adapter file is to its module.
enum class AdapterRole {
  down,             ///< LoRA's A [rank, in]
  up,               ///< LoRA's B [out, rank]
  up_bias,          ///< PEFT's bias of B [out]
  alpha,            ///< a number
  magnitude,        ///< DoRA's lengths
  left,             ///< LoKr's first factor
  left_up,          ///< its own factors
  left_down,        //
  right,            ///< LoKr's second factor
  right_up,         //
  right_down,       //
  first_up,         ///< LoHa's factors, w1_a [out, rank]
  first_down,       ///< w1_b [rank, in]
  second_up,        //
  second_down,      //
  difference,       ///< of the weight
  bias_difference,  //
  unknown_kind,     ///< of a kind that nostos knows by name alone
};

/// A key of an adapter file.
struct AdapterKey {
  std::string module;  ///< canonical (canonical_name()), with whatever stands before it, e.g. "lora_unet_layers_0_..."
  AdapterRole role = AdapterRole::down;
  std::string_view kind;  ///< of an unknown kind: its name, e.g. "OFT"
};

/// \return what `key` names, nothing if it ends as no tensor of an adapter does. Infixes ".default" are passed over.
std::optional<AdapterKey> parse_adapter_key(std::string_view key);

}  // namespace nostos
