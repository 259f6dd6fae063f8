// Fuzzes what a hub answers: any bytes are refused as a damaged answer, or give paths that stay inside a folder.
#include <cstdint>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "hub/hub_answers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const HubFile& file : parse_hub_listing(text, "fuzz")) {
      const std::string inside = (std::filesystem::path("folder") / file.path).string();
      const bool stays =
          inside.starts_with("folder/") && std::filesystem::path(inside).lexically_normal().string() == inside;
      if (!stays || file.digest.size() != (file.is_large ? 64 : 40)) std::abort();
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) std::abort();
  }
  try {
    if (parse_hub_commit(text, "fuzz").size() != 40) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) std::abort();
  }
  const std::string next = parse_next_page(text);
  if (next.find('>') != std::string::npos || next.size() > size) std::abort();
  if (parse_retry_after(text).value_or(0) < 0) std::abort();
  return 0;
}
