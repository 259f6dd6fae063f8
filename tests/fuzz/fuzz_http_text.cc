// Fuzzes the values of a request's fields: hosts, origins, ranges, tags, credentials, and what proxies say.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "apps/server/http_text.h"
#include "base/error.h"

namespace {

using namespace nostos::server;
using nostos::check;

void read_names(std::string_view text) {
  if (const auto authority = parse_authority(text)) {
    check(!authority->host.empty() && authority->port != 0, "an authority has a host, and no port 0");
    check(parse_authority(to_string(*authority)) == authority, "an authority reads as it is written");
  }
  if (const auto origin = parse_origin(text))
    check(is_site_of(*origin, to_string(origin->authority)), "an origin is of its own site");
}

void read_range(std::string_view text, uint64_t size) {
  const auto range = parse_range(text, size);
  if (range) check(range->count <= size && range->first <= size - range->count, "a range is within the bytes");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  read_names(text);
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{1}, uint64_t{100}, ~uint64_t{0}}) read_range(text, bytes);
  const bool is_weakly = names_tag(text, "\"a\"", TagComparison::weak);
  check(is_weakly || !names_tag(text, "\"a\"", TagComparison::strong), "what is equal strongly is equal weakly");
  parse_credentials(text);
  percent_decoded(text);
  for (const char* field : {"forwarded", "x-forwarded-proto", "x-forwarded-host", "host"}) {
    HttpRequest request;
    request.headers = {{"host", "localhost"}};
    request.headers[field] = text;
    const std::string base = link_base(request);
    check(base.empty() || parse_origin(base).has_value(), "links begin with an origin");
  }
  return 0;
}
