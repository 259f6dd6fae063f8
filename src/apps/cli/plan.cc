// Owns `nostos plan`: how a picture would be dealt to ranks, as text, JSON or a drawing.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "api/model_places.h"
#include "apps/cli/commands.h"
#include "apps/cli/flags.h"
#include "apps/cli/plan_drawing.h"
#include "apps/cli/references_flag.h"
#include "apps/cli/standard_streams.h"
#include "base/error.h"
#include "base/log.h"
#include "io/file.h"
#include "io/json_text.h"
#include "parallel/shard_plan.h"
#include "pipeline/engine.h"

namespace nostos::cli {
namespace {

using nlohmann::ordered_json;
using parallel::PlanKind;
using parallel::Rectangle;
using parallel::ShardPlan;
using parallel::Share;
using Path = std::filesystem::path;

constexpr int64_t kMostPlannedRanks = 512;

struct PlanFlags {
  CommonFlags common;
  ModelFlags model;
  std::optional<int64_t> height, width;
  int64_t sp_degree = 1;
  int64_t reference_images = 0;
  std::string sp_plan = "token";
  std::string model_path, output;
  bool json = false;
};

/// Tokens of the prompt that the bytes are counted with, where its rows depend on them.
constexpr int64_t kPromptTokens = 32;

/// A plan, and what it was made for.
struct Planned {
  ModelFiles model;
  ModelShape shape;
  ResolvedRequest resolved;
  ShardPlan plan;

  int64_t height() const { return *resolved.request.height; }
  int64_t width() const { return *resolved.request.width; }
  int64_t text_rows() const { return shape.prompt_rows(kPromptTokens, *resolved.request.max_sequence_length); }
  int64_t reference_rows(const ImageSize& size) const {
    return (size.height / shape.token_side()) * (size.width / shape.token_side());
  }
  /// \return rows of all references.
  int64_t reference_rows() const {
    int64_t rows = 0;
    for (const ImageSize& size : resolved.reference_sizes) rows += reference_rows(size);
    return rows;
  }
  /// \return what the rank exchanges in a layer with the image, the text and the references.
  parallel::ExchangeBytes bytes(int64_t rank, int64_t element_bytes) const {
    return exchange_bytes(plan, rank, shape.head_dim, element_bytes, {text_rows(), reference_rows()});
  }
};

ordered_json rectangle_json(const Rectangle& rectangle) {
  return {{"row", rectangle.rows.begin},
          {"column", rectangle.columns.begin},
          {"rows", rectangle.rows.count},
          {"columns", rectangle.columns.count}};
}

ordered_json bytes_json(const parallel::ExchangeBytes& bytes) {
  return {{"qkv_sent", bytes.qkv_sent},
          {"qkv_received", bytes.qkv_received},
          {"output_sent", bytes.output_sent},
          {"output_received", bytes.output_received}};
}

ordered_json share_json(const Planned& planned, int64_t rank) {
  const Share& share = planned.plan.shares[static_cast<size_t>(rank)];
  return {
      {"rank", rank},
      {"row_offset", share.rows.begin},
      {"rows", share.rows.count},
      {"image_tokens", share.image_tokens},
      {"pad_tokens", share.pads.count},
      {"idle_rows", share.idle},
      {"token_bounds", rectangle_json(share.bounds)},
      {"latent_bounds", rectangle_json(latent_bounds(planned.plan, rank))},
      {"head_offset", share.heads.begin},
      {"heads", share.heads.count},
      {"bytes_per_layer", {{"f32", bytes_json(planned.bytes(rank, 4))}, {"bf16", bytes_json(planned.bytes(rank, 2))}}}};
}

ordered_json references_json(const Planned& planned) {
  ordered_json references = ordered_json::array();
  for (const ImageSize& size : planned.resolved.reference_sizes)
    references.push_back({{"height", size.height}, {"width", size.width}, {"rows", planned.reference_rows(size)}});
  return references;
}

ordered_json plan_json(const Planned& planned, const std::string& output) {
  const ShardPlan& plan = planned.plan;
  const auto& [grid, ranks, kind, heads, patch, pad_multiple] = plan.request;
  ordered_json axes = ordered_json::array(), token_ranges = ordered_json::array(), shares = ordered_json::array();
  for (const parallel::AxisCut& cut : plan.cuts) {
    axes.push_back(
        {{"axis", name(cut.axis)}, {"sizes", cut.sizes}, {"target_tokens", cut.target}, {"padding_tokens", cut.cost}});
  }
  for (const parallel::Range& range : parallel::split(plan.padded_tokens(), ranks))
    token_ranges.push_back({range.begin, range.end()});
  for (int64_t rank = 0; rank < ranks; ++rank) shares.push_back(share_json(planned, rank));
  return {{"width", planned.width()},
          {"height", planned.height()},
          {"drawn_width", planned.resolved.drawn_width},
          {"drawn_height", planned.resolved.drawn_height},
          {"ranks", ranks},
          {"plan", name(kind)},
          {"model_path", shown_place(planned.model)},
          {"caption_rows", planned.text_rows()},
          {"references", references_json(planned)},
          {"control_blocks", planned.shape.control_blocks},
          {"heads", heads},
          {"head_dim", planned.shape.head_dim},
          {"token_height", grid.height},
          {"token_width", grid.width},
          {"tokens", grid.tokens()},
          {"single_rank_padding_tokens", plan.padded_tokens() - grid.tokens()},
          {"axis", name(plan.axis)},
          {"reason", plan.reason},
          {"sizes", plan.cut().sizes},
          {"target_tokens", plan.cut().target},
          {"padding_tokens", plan.cut().cost},
          {"axes", axes},
          {"token_ranges", token_ranges},
          {"shares", shares},
          {"output", output.empty() ? ordered_json() : ordered_json(output)},
          {"version", NOSTOS_VERSION}};
}

/// \return e.g. "a text of 512 rows and 2 references of 4096 rows each".
std::string beside_text(const Planned& planned) {
  const std::vector<ImageSize>& sizes = planned.resolved.reference_sizes;
  std::string text = fmt::format("a text of {} rows", planned.text_rows());
  if (!sizes.empty())  // all have the same size
    text += fmt::format(" and {} reference{} of {} rows{}", sizes.size(), sizes.size() == 1 ? "" : "s",
                        planned.reference_rows(sizes.front()), sizes.size() == 1 ? "" : " each");
  return text;
}

/// \return e.g. "0-15", or "-" for nothing.
std::string span_text(const parallel::Range& range) {
  return range.count == 0 ? "-" : fmt::format("{}-{}", range.begin, range.end() - 1);
}

void print_text(const Planned& planned) {
  const ShardPlan& plan = planned.plan;
  const auto& [grid, ranks, kind, heads, patch, pad_multiple] = plan.request;
  print_output("{}x{} on {} rank{}, {} plan, {} heads of {}\n", planned.resolved.drawn_width,
               planned.resolved.drawn_height, ranks, ranks == 1 ? "" : "s", name(kind), heads, planned.shape.head_dim);
  print_output("{} x {} tokens (height x width): {}, and {} pads as on one rank\n\n", grid.height, grid.width,
               grid.tokens(), plan.padded_tokens() - grid.tokens());
  if (kind == PlanKind::token) {
    print_output(
        "token plan: {} rows in {} contiguous ranges, no further padding; the axis plan would cut as follows\n",
        plan.padded_tokens(), ranks);
  }
  print_output("{:<8}{:>10}{:>10}  {}\n", "axis", "target", "padding", "tokens along it");
  for (const parallel::AxisCut& cut : plan.cuts) {
    print_output("{:<8}{:>10}{:>10}  {}{}\n", name(cut.axis), cut.target, cut.cost, fmt::join(cut.sizes, " "),
                 cut.axis == plan.axis ? fmt::format("  <- {}", plan.reason) : "");
  }
  print_output("\n{:>4}{:>16}{:>8}{:>6}{:>6}{:>12}{:>12}{:>12}{:>12}{:>10}{:>12}{:>12}\n", "rank", "rows", "tokens",
               "pads", "idle", "grid rows", "columns", "latent rows", "columns", "heads", "f32 MB", "bf16 MB");
  int64_t total = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const Share& share = plan.shares[static_cast<size_t>(rank)];
    const Rectangle latent = latent_bounds(plan, rank);
    const int64_t f32_bytes = planned.bytes(rank, 4).sent();
    total += f32_bytes;
    print_output("{:>4}{:>16}{:>8}{:>6}{:>6}{:>12}{:>12}{:>12}{:>12}{:>10}{:>12.3f}{:>12.3f}\n", rank,
                 span_text(share.rows), share.image_tokens, share.pads.count, share.idle, span_text(share.bounds.rows),
                 span_text(share.bounds.columns), span_text(latent.rows), span_text(latent.columns),
                 span_text(share.heads), static_cast<double>(f32_bytes) / 1e6, static_cast<double>(f32_bytes) / 2e6);
  }
  print_output(
      "\nMB are sent by the rank in one layer: q, k, v to the heads' owners and the output back; {:.3f} f32 in "
      "all, with {}.\n",
      static_cast<double>(total) / 1e6, beside_text(planned));
  if (planned.shape.control_blocks > 0)
    print_output(
        "Where a control image is followed, its network has {} blocks more, each of which sends as much at most.\n",
        planned.shape.control_blocks);
}

void plan_command(CLI::App& command, const PlanFlags& flags) {
  apply_common_flags(command, flags.common);
  const PlanKind kind = parse_plan(flags.sp_plan);
  GenerationRequest request;
  request.height = flags.height;
  request.width = flags.width;
  // What no model can draw is found before one is looked for; the model's own limits follow.
  resolve(request, any_model_limits());
  if (!flags.output.empty()) {
    image_format(flags.output);
    require_writable(flags.output);
  }
  const ModelFiles model = model_files(flags.model.named(flags.model_path), flags.model.parts);
  const ModelShape shape = read_model_shape(model);
  const ResolvedRequest resolved = with_references(request, flags.reference_images, shape.limits);
  const int64_t multiple = shape.limits.size_multiple;
  const Planned planned{
      model, shape, resolved,
      parallel::make_plan({.grid = {resolved.drawn_height / multiple, resolved.drawn_width / multiple},
                           .ranks = flags.sp_degree,
                           .kind = kind,
                           .heads = shape.heads,
                           .patch = shape.patch,
                           .pad_multiple = shape.limits.token_multiple})};
  if (resolved.drawn_height != planned.height() || resolved.drawn_width != planned.width()) {
    log_info("{}x{} is no multiple of {}: planned at {}x{}", planned.width(), planned.height(), multiple,
             resolved.drawn_width, resolved.drawn_height);
  }
  if (!flags.output.empty()) {
    const std::string title =
        fmt::format("{}x{} on {} ranks {} plan{}", resolved.drawn_width, resolved.drawn_height, flags.sp_degree,
                    name(kind), kind == PlanKind::axis ? fmt::format(" along {}", name(planned.plan.axis)) : "");
    const Image image = draw_plan(planned.plan, title).image;
    write_file_atomically(flags.output, encode_image(image, image_format(flags.output)));
  }
  if (flags.json)
    print_output("{}\n", json_pretty(plan_json(planned, flags.output)));
  else
    print_text(planned);
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("plan", "Show how a picture is dealt to ranks");
  auto flags = std::make_shared<PlanFlags>();
  add_number(*command, "--height", flags->height, "pixels; the model's default");
  add_number(*command, "--width", flags->width, "pixels; the model's default");
  command->add_option("--sp-degree", flags->sp_degree, "ranks that share the picture (1)")
      ->transform(whole_number(int64_t{1}, kMostPlannedRanks));
  command->add_option("--sp-plan", flags->sp_plan, "token: equal ranges of tokens; axis: rectangles (token)");
  add_references_flag(*command, flags->reference_images);
  command->add_option("--model-path", flags->model_path,
                      model_path_help("the embedded model; of a folder configs are enough"));
  add_model_flags(*command, flags->model, false);
  command->add_option("--output", flags->output, "PNG, JPEG or WebP drawing of the token grid, coloured by rank");
  command->add_flag("--json", flags->json, "write one JSON object to standard output");
  add_common_flags(*command, flags->common);
  command->callback([command, flags] { plan_command(*command, *flags); });
}

}  // namespace nostos::cli
