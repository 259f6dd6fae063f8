// Implements the checks of who may ask.
#include "apps/server/access.h"

#include <algorithm>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "base/error.h"

namespace nostos::server {
namespace {

bool is_local(const Authority& authority) { return authority.is_address || authority.host == "localhost"; }

/// \return what the cookie of that name holds, decoded, or nothing.
std::optional<std::string> cookie(std::string_view field, std::string_view name) {
  for (size_t start = 0; start < field.size();) {
    const size_t end = std::min(field.find(';', start), field.size());
    std::string_view pair = field.substr(start, end - start);
    pair.remove_prefix(std::min(pair.find_first_not_of(' '), pair.size()));
    const size_t equals = std::min(pair.find('='), pair.size());
    if (pair.substr(0, equals) == name && equals < pair.size()) return percent_decoded(pair.substr(equals + 1));
    start = end + 1;
  }
  return std::nullopt;
}

}  // namespace

void check_key(const std::string& key, const HttpRequest& request) {
  if (key.empty()) return;
  const Credentials given = parse_credentials(request.header("authorization"));
  const auto kept = cookie(request.header("cookie"), "nostos_key");
  bool is_right = kept && equal_in_constant_time(key, *kept);
  if (given.scheme == "bearer") is_right |= equal_in_constant_time(key, given.value);
  if (given.scheme == "basic") {
    const std::string login = from_base64(given.value);
    const size_t colon = login.find(':');
    if (colon != std::string::npos) is_right |= equal_in_constant_time(key, std::string_view(login).substr(colon + 1));
  }
  if (is_right) return;
  const bool has_any = !given.scheme.empty() || kept;
  throw ApiError(401, "authentication_error",
                 has_any ? "the API key is wrong" : "this server wants an API key: Authorization: Bearer KEY", {},
                 "invalid_api_key");
}

void check_host(bool by_any_name, const HttpRequest& request) {
  const auto host = parse_authority(request.header("host"));
  if (by_any_name || (host && is_local(*host))) return;
  throw ApiError(403, "permission_error",
                 "this server has no API key and answers to localhost and IP addresses alone: use its address, or give "
                 "it --api-key-file",
                 "Host", "foreign_host");
}

Origin read_allowed_origin(const std::string& flag) {
  require(flag.find('*') == std::string::npos && flag != "null", ErrorKind::invalid_input,
          "--allow-origin {} is no single site: name each origin, as http://localhost:3000", flag);
  const auto origin = parse_origin(flag);
  require(origin.has_value(), ErrorKind::invalid_input,
          "--allow-origin {} is no origin: write scheme://host or scheme://host:port and nothing after it, as "
          "http://localhost:3000",
          flag);
  return *origin;
}

bool is_let_in(std::span<const Origin> allowed, const HttpRequest& request) {
  const auto origin = parse_origin(request.header("origin"));
  return origin && std::ranges::find(allowed, *origin) != allowed.end();
}

void check_origin(bool by_any_name, std::span<const Origin> allowed, const HttpRequest& request) {
  const std::string_view field = request.header("origin");
  if (field.empty() || is_let_in(allowed, request)) return;
  const auto origin = parse_origin(field);
  const bool is_own = origin && is_site_of(*origin, request.header("host"));
  if (is_own && (by_any_name || is_local(origin->authority))) return;
  throw ApiError(403, "permission_error",
                 "pages of other sites may not use this server; --allow-origin lets named ones in", {},
                 "foreign_origin");
}

bool is_preflight(const HttpRequest& request) {
  return request.method == "OPTIONS" && !request.header("origin").empty() &&
         !request.header("access-control-request-method").empty();
}

HttpHeaders preflight_headers(const HttpRequest& request, const std::string& methods) {
  HttpHeaders headers{{"Access-Control-Allow-Methods", methods}, {"Access-Control-Max-Age", "600"}};
  // All that it asks for: clients' libraries send fields of their own, and "*" would not mean Authorization.
  const std::string asked(request.header("access-control-request-headers"));
  if (!asked.empty()) headers.emplace_back("Access-Control-Allow-Headers", asked);
  return headers;
}

HttpHeaders cross_origin_headers(std::span<const Origin> allowed, const HttpRequest& request) {
  if (allowed.empty()) return {};
  HttpHeaders headers{{"Vary", "Origin"}};
  if (!is_let_in(allowed, request)) return headers;
  headers.emplace_back("Access-Control-Allow-Origin", std::string(request.header("origin")));
  headers.emplace_back("Access-Control-Expose-Headers",
                       "Accept-Ranges, Allow, Content-Disposition, Content-Range, ETag, Location, Retry-After, "
                       "X-Request-Id");
  return headers;
}

}  // namespace nostos::server
