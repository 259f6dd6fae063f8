// Implements showing a file of weights.
#include "apps/cli/inspected_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "io/weight_store.h"

namespace nostos::cli {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMostNames = 6;        // in a line of text; JSON has all
constexpr size_t kMostCharacters = 90;  // of a value in a line of text

std::string_view place_name(ConfigPlace place) {
  switch (place) {
    case ConfigPlace::beside_weights:
      return "beside the weights";
    case ConfigPlace::in_file:
      return "in the file";
    case ConfigPlace::model_folder:
      return "in the model's folder";
    case ConfigPlace::tensors:
      break;
  }
  return "made from the tensors";
}

/// \return the names of the tensors of a role.
std::vector<std::string> names_of(const FileContents& contents, TensorRole role) {
  std::vector<std::string> names;
  for (const FileTensorFacts& tensor : contents.tensors)
    if (tensor.role == role) names.push_back(tensor.name);
  return names;
}

ordered_json report_json(const AdapterReport& report) {
  return {{"kinds", report.kinds},           {"prefixes", report.prefixes},
          {"layouts", report.layouts},       {"ranks", report.ranks},
          {"alphas", report.alphas},         {"modules", report.modules},
          {"weights", report.targets},       {"unmatched", report.unmatched},
          {"duplicates", report.duplicates}, {"text_encoder", report.text_encoder}};
}

ordered_json part_json(const FileContents& contents, size_t index) {
  const FilePart& part = contents.parts[index];
  return {{"name", part.type->kind->folder},
          {"kind", part.type->kind->name},
          {"model", part.title},
          {"names", part.layout},
          {"prefix", part.prefix},
          {"formats", groups_json(contents.groups(index))},
          {"problems", part.problems},
          {"config_from", part.config ? ordered_json(place_name(part.config->place)) : ordered_json()},
          {"config", part.config ? parsed(part.config->json) : ordered_json()}};
}

ordered_json tensor_json(const FileContents& contents, const FileTensorFacts& tensor) {
  return {{"name", tensor.name},
          {"part", tensor.part ? ordered_json(contents.parts[*tensor.part].type->kind->folder) : ordered_json()},
          {"names", tensor.names},
          {"role", name(tensor.role)},
          {"shape", tensor.extents},
          {"format", tensor.format},
          {"bytes", tensor.bytes},
          {"scale_bytes", tensor.scale_bytes}};
}

/// \return the text in one line, cut where it is long.
std::string one_line(std::string text) {
  std::ranges::replace(text, '\n', ' ');
  if (text.size() <= kMostCharacters) return text;
  size_t end = kMostCharacters;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not amid a character
  return text.substr(0, end) + "...";
}

std::string megabytes(size_t bytes) { return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6); }

/// Appends the table of formats.
void add_groups(std::string& text, const std::vector<FormatGroup>& groups) {
  fmt::format_to(std::back_inserter(text), "  {:<40}{:>8}{:>18}{:>12}{:>8}\n", "stored as", "tensors", "numbers", "MB",
                 "bits");
  for (const FormatGroup& group : groups)
    fmt::format_to(std::back_inserter(text), "  {:<40}{:>8}{:>18}{:>12.1f}{:>8.2f}\n", group.format, group.tensors,
                   group.numbers, static_cast<double>(group.bytes) / 1e6, group.bits_per_number());
}

void add_part(std::string& text, const FileContents& contents, size_t index) {
  const FilePart& part = contents.parts[index];
  const std::string prefix = part.prefix.empty() ? "" : fmt::format(" behind {}", part.prefix);
  fmt::format_to(std::back_inserter(text), "\n{}: {} ({}), names of {}{}\n", part.type->kind->folder, part.title,
                 part.type->kind->name, part.layout, prefix);
  add_groups(text, contents.groups(index));
  for (const std::string& problem : part.problems) text += fmt::format("  cannot be used: {}\n", problem);
  if (part.config) text += fmt::format("  config, {}: {}\n", place_name(part.config->place), part.config->json.dump());
}

void add_fits(std::string& text, const std::vector<AdapterFit>& fits) {
  const bool fits_one = std::ranges::any_of(fits, [](const AdapterFit& fit) { return fit.report.has_value(); });
  for (const AdapterFit& fit : fits) {
    if (!fit.report && fits_one) continue;  // an adapter is one model's
    text += fit.report ? fmt::format("\nfits {}\n", fit.model)
                       : fmt::format("\ndoes not fit {}\n  {}\n", fit.model, fit.problem);
    if (!fit.report) continue;
    const AdapterReport& report = *fit.report;
    std::vector<std::string> kinds;
    for (const auto& [kind, count] : report.kinds) kinds.push_back(fmt::format("{} {}", count, kind));
    text += fmt::format("  modules   {} ({}), which change {} weights\n", report.modules, fmt::join(kinds, ", "),
                        report.targets);
    text += fmt::format("  names     {}, behind '{}'\n", fmt::join(report.layouts, ", "),
                        fmt::join(report.prefixes, "', '"));
    if (!report.ranks.empty()) text += fmt::format("  ranks     {}\n", fmt::join(report.ranks, ", "));
    if (!report.alphas.empty()) text += fmt::format("  alphas    {}\n", fmt::join(report.alphas, ", "));
    const auto add = [&](std::string_view what, const std::vector<std::string>& names) {
      if (!names.empty()) text += fmt::format("  {} {}: {}\n", names.size(), what, join_some(names, kMostNames));
    };
    add("tensors match nothing", report.unmatched);
    add("modules repeat others", report.duplicates);
    add("tensors are for a text encoder", report.text_encoder);
  }
}

void add_layers(std::string& text, const FileContents& contents) {
  text += '\n';
  for (const FileTensorFacts& tensor : contents.tensors) {
    fmt::format_to(std::back_inserter(text), "{}  [{}]  {}  {} bytes", tensor.name, fmt::join(tensor.extents, ", "),
                   tensor.format, tensor.bytes);
    if (tensor.role == TensorRole::weight)
      fmt::format_to(std::back_inserter(text), "  = {} {}\n", contents.parts[*tensor.part].type->kind->folder,
                     fmt::join(tensor.names, " + "));
    else
      fmt::format_to(std::back_inserter(text), "  {}\n", name(tensor.role));
  }
}

}  // namespace

ordered_json parsed(const std::optional<JsonConfig>& config) {
  return config ? ordered_json::parse(config->dump()) : ordered_json();
}

ordered_json groups_json(const std::vector<FormatGroup>& groups) {
  ordered_json list = ordered_json::array();
  for (const FormatGroup& group : groups)
    list.push_back({{"format", group.format},
                    {"tensors", group.tensors},
                    {"numbers", group.numbers},
                    {"bytes", group.bytes},
                    {"bits_per_number", group.bits_per_number()}});
  return list;
}

std::string groups_line(const std::vector<FormatGroup>& groups) {
  std::vector<std::string> words;
  for (const FormatGroup& group : groups) words.push_back(fmt::format("{} {}", group.tensors, group.format));
  return fmt::format("{}", fmt::join(words, "; "));
}

ordered_json file_json(const InspectedFile& file) {
  const FileContents& contents = file.contents;
  ordered_json parts = ordered_json::array(), tensors = ordered_json::array(), fits = ordered_json::array();
  for (size_t i = 0; i < contents.parts.size(); ++i) parts.push_back(part_json(contents, i));
  for (const FileTensorFacts& tensor : contents.tensors) tensors.push_back(tensor_json(contents, tensor));
  for (const AdapterFit& fit : file.fits) {
    ordered_json entry{{"model", fit.model}, {"fits", fit.report.has_value()}};
    entry.update(fit.report ? report_json(*fit.report) : ordered_json{{"problem", fit.problem}});
    fits.push_back(std::move(entry));
  }
  return {{"path", contents.path.string()},
          {"format", contents.format},
          {"kind", contents.kind()},
          {"bytes", contents.bytes},
          {"has_tokenizer", contents.has_tokenizer},
          {"parts", std::move(parts)},
          {"not_used", groups_json(contents.groups({}))},
          {"adapter", contents.is_adapter ? std::move(fits) : ordered_json()},
          {"metadata", contents.metadata},
          {"tensors", std::move(tensors)}};
}

std::string file_text(const InspectedFile& file, bool with_layers) {
  const FileContents& contents = file.contents;
  std::string text = fmt::format("{}: {}, {}, {}{}\n", contents.path.string(), contents.kind(), contents.format,
                                 megabytes(contents.bytes), contents.has_tokenizer ? ", with a tokenizer" : "");
  for (size_t i = 0; i < contents.parts.size(); ++i) add_part(text, contents, i);
  add_fits(text, file.fits);
  if (contents.parts.empty()) {
    text += '\n';
    add_groups(text, contents.groups({}));
  }
  for (const auto& [role, what] : {std::pair{TensorRole::leftover, "usual, read by no drawing"},
                                   {TensorRole::unknown, "of no part of the model"}}) {
    const std::vector<std::string> names = names_of(contents, role);
    if (!names.empty() && !contents.parts.empty())
      text += fmt::format("\nnot used: {} tensors, {}: {}\n", names.size(), what, join_some(names, kMostNames));
  }
  if (!contents.metadata.empty()) text += "\nmetadata\n";
  for (const auto& [key, value] : contents.metadata) text += fmt::format("  {}: {}\n", key, one_line(value));
  if (with_layers) add_layers(text, contents);
  return text;
}

}  // namespace nostos::cli
