// Fuzzes what names a model and its place: names with revisions stay inside the cache, and paths expand without harm.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/environment.h"
#include "io/model_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (text.find('\0') != std::string_view::npos) return 0;  // no argument or variable holds one
  try {
    const ModelName name = parse_model_name(text);
    const std::filesystem::path reference = std::filesystem::path("cache") / name.owner / name.name / name.revision;
    const std::string normal = reference.lexically_normal().string();
    // Nothing is taken away when "." and ".." are worked out: there are none.
    if (reference.string() != normal || !normal.starts_with("cache/")) std::abort();
    const std::string full = name.owner + "/" + name.name + (name.revision.empty() ? "" : "@" + name.revision);
    if (full != text) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) std::abort();
  }
  ::setenv("A", "$B/${A}~", 1);
  const std::string expanded = expand_path(text);
  const bool is_plain = text.find('$') == std::string_view::npos && !text.starts_with('~');
  if (is_plain && expanded != text) std::abort();
  // Every character outside of a name is kept.
  if (std::count(expanded.begin(), expanded.end(), '\n') != std::count(text.begin(), text.end(), '\n')) std::abort();
  return 0;
}
