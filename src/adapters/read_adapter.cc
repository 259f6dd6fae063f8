// Implements reading adapter files: keys to modules, modules to targets, tensors to updates.
#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "adapters/adapter.h"
#include "adapters/adapter_key.h"
#include "adapters/module_delta.h"
#include "adapters/peft_metadata.h"
#include "adapters/report.h"
#include "adapters/row_pieces.h"
#include "adapters/tensor_values.h"
#include "base/error.h"

namespace nostos {
namespace {

/// A module of the file that names one of the model.
struct MatchedModule {
  AdapterModule tensors;
  ModuleMatch match;
  std::optional<DeltaShape> shape;
  const FileTensor* weight = nullptr;  ///< that it changes, if any
  const FileTensor* bias = nullptr;
};

class Reader {
 public:
  Reader(const TensorFile& file, const AdapterTargets& targets) : file_(file), targets_(targets) {
    report_.file = file.path().string();
    report_.model = targets.model();
  }

  Adapter read();

 private:
  void group_keys();
  void match_modules();
  void share_alphas();
  void choose_targets(MatchedModule& module);
  const FileTensor* choose(const MatchedModule& module, const std::vector<const FileTensor*>& candidates,
                           const std::string& key, const MatrixShape& shape) const;
  std::vector<TargetRows> unclaimed(const MatchedModule& module, const FileTensor& tensor);
  double scale_of(const MatchedModule& module, const FileTensor& tensor);
  std::optional<Magnitude> magnitude_of(const MatchedModule& module, std::span<const TargetRows> pieces) const;
  void add_weight(const MatchedModule& module);
  void add_bias(const MatchedModule& module);
  void add_updates(const WholeUpdate& whole, const FileTensor& tensor, std::span<const TargetRows> pieces);

  const TensorFile& file_;
  const AdapterTargets& targets_;
  PeftMetadata peft_;
  std::map<std::string, std::pair<AdapterModule, std::string_view>> groups_;  ///< with the name of an unknown kind
  std::vector<MatchedModule> modules_;
  std::map<std::string, std::vector<std::pair<TargetRows, std::string>>> claims_;  ///< by target: rows and module
  std::vector<WeightUpdate> updates_;
  std::string missing_layer_;  ///< a key for a layer that the model lacks
  AdapterReport report_;
};

void Reader::group_keys() {
  for (const auto& [key, info] : file_.tensors()) {
    const std::optional<AdapterKey> parsed = parse_adapter_key(key);
    if (!parsed) {
      report_.unmatched.push_back(key);
      continue;
    }
    auto& [module, unknown_kind] = groups_[parsed->module];
    module.name = parsed->module;
    if (!parsed->kind.empty()) unknown_kind = parsed->kind;
    const auto [known, is_new] = module.keys.emplace(parsed->role, key);
    if (!is_new && parsed->role != AdapterRole::unknown_kind)
      fail(ErrorKind::model, "{}: tensors '{}' and '{}' mean the same", report_.file, known->second, key);
  }
}

void Reader::match_modules() {
  for (auto& [name, group] : groups_) {
    auto& [tensors, unknown_kind] = group;
    ModuleMatch match = targets_.find(name);
    const std::string& key = tensors.keys.begin()->second;
    if (match.is_missing_layer && missing_layer_.empty()) missing_layer_ = key;
    if (!match.found()) {
      const bool is_unused_text = match.is_text_encoder && !targets_.has_text_encoder();
      for (const auto& [role, unused] : tensors.keys)
        (is_unused_text ? report_.text_encoder : report_.unmatched).push_back(unused);
      continue;
    }
    if (!unknown_kind.empty())
      fail(ErrorKind::model, "{} is of a kind that nostos cannot apply: {}",
           describe(file_, tensors.key(AdapterRole::unknown_kind)), unknown_kind);
    modules_.push_back({std::move(tensors), std::move(match), {}, nullptr, nullptr});
  }
}

/// Some files write an alpha under another of the module's names than its factors.
void Reader::share_alphas() {
  const auto is_alone = [](const MatchedModule& module) {
    return module.tensors.keys.size() == 1 && module.tensors.has(AdapterRole::alpha);
  };
  for (const MatchedModule& alone : modules_) {
    if (!is_alone(alone)) continue;
    const std::string& key = alone.tensors.key(AdapterRole::alpha);
    bool is_used = false;
    for (MatchedModule& module : modules_) {
      if (is_alone(module) || module.tensors.has(AdapterRole::alpha) || module.match.weights.empty()) continue;
      if (alone.match.weights.empty() || module.match.weights[0]->pieces != alone.match.weights[0]->pieces) continue;
      module.tensors.keys.emplace(AdapterRole::alpha, key);
      is_used = true;
    }
    if (!is_used) report_.unmatched.push_back(key);
  }
  std::erase_if(modules_, is_alone);
}

const FileTensor* Reader::choose(const MatchedModule& module, const std::vector<const FileTensor*>& candidates,
                                 const std::string& key, const MatrixShape& shape) const {
  if (candidates.empty())
    fail(ErrorKind::model, "{} changes what {} lacks: module '{}' has no such tensor", describe(file_, key),
         report_.model, module.tensors.name);
  for (const FileTensor* tensor : candidates)
    if (shape == MatrixShape{tensor->rows, tensor->columns}) return tensor;
  const FileTensor& wanted = **std::max_element(candidates.begin(), candidates.end(),
                                                [](const auto* a, const auto* b) { return a->rows < b->rows; });
  fail(ErrorKind::model, "{} is for a matrix {}, but {}'s '{}' is {}: the adapter was made for another model",
       describe(file_, key), to_string(shape), report_.model, wanted.name,
       to_string(MatrixShape{wanted.rows, wanted.columns}));
}

void Reader::choose_targets(MatchedModule& module) {
  const AdapterModule& tensors = module.tensors;
  module.shape = delta_shape(file_, tensors);
  if (module.shape) module.weight = choose(module, module.match.weights, module.shape->key, module.shape->weight);
  for (const AdapterRole role : {AdapterRole::bias_difference, AdapterRole::up_bias})
    if (tensors.has(role))
      module.bias = choose(module, module.match.biases, tensors.key(role), matrix_shape(file_, tensors.key(role)));
  if (!module.weight && !module.bias)
    fail(ErrorKind::model, "{} stands alone: the factors of module '{}' are missing",
         describe(file_, tensors.keys.begin()->second), tensors.name);
}

/// \return the pieces of `tensor` that no other module has; notes those that one has.
std::vector<TargetRows> Reader::unclaimed(const MatchedModule& module, const FileTensor& tensor) {
  std::vector<TargetRows> own;
  std::string other;
  for (const TargetRows& piece : tensor.pieces) {
    auto& claims = claims_[targets_.part(tensor.part).name + "/" + piece.target];
    const auto taken = std::find_if(claims.begin(), claims.end(), [&](const auto& claim) {
      return claim.first.row < piece.row + piece.count && piece.row < claim.first.row + claim.first.count;
    });
    if (taken != claims.end()) {
      other = taken->second;
      continue;
    }
    claims.emplace_back(piece, module.tensors.name);
    own.push_back(piece);
  }
  if (other.empty()) return own;
  if (tensor.is_diffusers)
    fail(ErrorKind::model, "{}: modules '{}' and '{}' change the same weight", report_.file, other,
         module.tensors.name);
  report_.duplicates.push_back(module.tensors.name + (own.empty() ? "" : " (in part)"));
  return own;
}

double Reader::scale_of(const MatchedModule& module, const FileTensor& tensor) {
  const DeltaShape& shape = *module.shape;
  if (shape.kind == DeltaKind::difference) return 1;
  if (shape.rank > 0) report_.ranks.insert(shape.rank);
  if (module.tensors.has(AdapterRole::alpha)) {
    const double alpha = read_number(file_, module.tensors.key(AdapterRole::alpha));
    if (shape.rank == 0) return 1;  // LoKr with both factors in whole: LyCORIS writes an alpha that does not count
    report_.alphas.insert(alpha);
    return alpha / static_cast<double>(shape.rank);
  }
  auto peft = peft_.find(targets_.part(tensor.part).name);
  if (peft == peft_.end()) peft = peft_.find("");
  if (peft == peft_.end()) return 1;
  const std::string name = tensor.name.substr(0, tensor.name.rfind('.'));
  // PEFT scales LoKr by its configured rank, whatever its factors are.
  const int64_t configured = peft->second.rank_of(name);
  const int64_t rank = shape.kind == DeltaKind::kronecker && configured > 0 ? configured : shape.rank;
  if (rank == 0) return 1;
  const double alpha = peft->second.alpha_of(name), r = static_cast<double>(rank);
  report_.alphas.insert(alpha);
  return alpha / (peft->second.is_rank_stabilised ? std::sqrt(r) : r);
}

std::optional<Magnitude> Reader::magnitude_of(const MatchedModule& module, std::span<const TargetRows> pieces) const {
  if (!module.tensors.has(AdapterRole::magnitude)) return std::nullopt;
  const std::string& key = module.tensors.key(AdapterRole::magnitude);
  Magnitude magnitude = read_magnitude(file_, key, module.shape->weight);
  if (magnitude.axis == Magnitude::Axis::each_column && (pieces.size() != 1 || pieces[0].row != 0))
    fail(ErrorKind::model, "{} says lengths of columns over several matrices of {}, which nostos cannot apply",
         describe(file_, key), report_.model);
  return magnitude;
}

void Reader::add_updates(const WholeUpdate& whole, const FileTensor& tensor, std::span<const TargetRows> pieces) {
  for (WeightUpdate& update : cut_rows(whole, pieces)) {
    update.part = targets_.part(tensor.part).name;
    updates_.push_back(std::move(update));
  }
}

void Reader::add_weight(const MatchedModule& module) {
  const std::vector<TargetRows> pieces = unclaimed(module, *module.weight);
  if (pieces.empty()) return;
  ++report_.kinds[std::string(name(module.shape->kind))];
  WholeUpdate whole{read_delta(file_, module.tensors, *module.shape), scale_of(module, *module.weight),
                    magnitude_of(module, pieces), module.shape->weight.columns};
  if (whole.magnitude) ++report_.kinds["DoRA"];
  add_updates(whole, *module.weight, pieces);
}

void Reader::add_bias(const MatchedModule& module) {
  const std::vector<TargetRows> pieces = unclaimed(module, *module.bias);
  const auto add = [&](AdapterRole role, double scale) {
    if (!module.tensors.has(role) || pieces.empty()) return;
    ++report_.kinds["bias"];
    const auto values = std::make_shared<const Matrix>(read_matrix(file_, module.tensors.key(role)));
    add_updates({Dense{values}, scale, std::nullopt, 1}, *module.bias, pieces);
  };
  add(AdapterRole::bias_difference, 1);
  add(AdapterRole::up_bias, module.weight ? scale_of(module, *module.weight) : 1);
}

Adapter Reader::read() {
  peft_ = read_peft_metadata(file_);
  group_keys();
  match_modules();
  share_alphas();
  if (modules_.empty() && missing_layer_.empty()) refuse_without_match(file_, report_);
  for (MatchedModule& module : modules_) choose_targets(module);  // two shapes say more than a layer too many
  if (!missing_layer_.empty())
    fail(ErrorKind::model, "{} is for a layer that {} lacks: the adapter was made for another model",
         describe(file_, missing_layer_), report_.model);
  // Modules under the target's own name come first; another name for the same rows is a duplicate.
  std::stable_partition(modules_.begin(), modules_.end(), [](const MatchedModule& module) {
    return (module.weight ? module.weight : module.bias)->is_diffusers;
  });
  for (const MatchedModule& module : modules_) {
    const size_t before = updates_.size();
    if (module.weight) add_weight(module);
    if (module.bias) add_bias(module);
    if (updates_.size() == before) continue;
    ++report_.modules;
    report_.layouts.insert((module.weight ? module.weight : module.bias)->layout);
    const std::string& full = module.tensors.name;
    report_.prefixes.insert(full.substr(0, full.size() - module.match.name_length));
  }
  const auto place = [](const WeightUpdate& u) { return std::tie(u.part, u.target, u.first_row); };
  std::stable_sort(updates_.begin(), updates_.end(), [&](const auto& a, const auto& b) { return place(a) < place(b); });
  std::set<std::string> changed;
  for (const WeightUpdate& update : updates_) changed.insert(update.part + "/" + update.target);
  report_.targets = static_cast<int64_t>(changed.size());
  for (std::vector<std::string>* names : {&report_.unmatched, &report_.duplicates, &report_.text_encoder})
    std::sort(names->begin(), names->end());
  return {std::move(updates_), std::move(report_)};
}

}  // namespace

Adapter read_adapter(const TensorFile& file, const AdapterTargets& targets) { return Reader(file, targets).read(); }

}  // namespace nostos
