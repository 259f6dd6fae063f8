// Implements references that stand for the user's own.
#include "apps/cli/references_flag.h"

#include <fmt/format.h>

#include <string>

#include "apps/cli/flags.h"
#include "base/error.h"

namespace nostos::cli {
namespace {

constexpr int64_t kMostReferences = 1000;  // no model takes as many; the model's own limit follows

}  // namespace

void require_references(const char* flag, int64_t count, const ModelLimits& limits) {
  const int64_t most = limits.max_reference_images;
  if (count <= most) return;
  const std::string given = fmt::format("{} gives {} reference picture{}", flag, count, count == 1 ? "" : "s");
  require(most > 0, ErrorKind::invalid_input, "{}, but this model takes no reference pictures", given);
  fail(ErrorKind::invalid_input, "{}: this model takes at most {}", given, most);
}

void add_references_flag(CLI::App& command, int64_t& count) {
  command
      .add_option("--reference-images", count,
                  "reference pictures of the picture's size, which are prepared as any other: made smaller where they "
                  "have more pixels than the model takes (0)")
      ->transform(whole_number(int64_t{0}, kMostReferences));
}

ResolvedRequest with_references(const GenerationRequest& request, int64_t count, const ModelLimits& limits) {
  GenerationRequest plain = request;
  plain.strength.reset();
  ResolvedRequest resolved = resolve(plain, limits);
  require_references("--reference-images", count, limits);
  const int64_t images = count + (request.strength ? 1 : 0);
  if (images == 0) return resolved;
  GenerationRequest& sized = resolved.request;
  sized.strength = request.strength;
  sized.images.assign(static_cast<size_t>(images), {.file = "grey", .size = {*sized.height, *sized.width}});
  return resolve(sized, limits);
}

}  // namespace nostos::cli
