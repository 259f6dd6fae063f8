// Implements the parts of HTTP that are text alone.
#include "apps/server/http_text.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

namespace nostos::server {
namespace {

using boost::beast::iequals;

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_utf8(const std::string& text) {
  // The JSON writer's own check: it throws type_error for what is no UTF-8.
  try {
    nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

std::string lower(std::string_view text) {
  std::string lowered(text);
  for (char& c : lowered) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lowered;
}

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  return first == std::string_view::npos ? std::string_view()
                                         : text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

/// \return whether the origin-form could be split into path and query.
bool split_target(std::string_view target, HttpRequest& request) {
  if (!target.starts_with('/') || target.find('#') != std::string_view::npos) return false;
  const size_t mark = target.find('?');
  const auto path = percent_decoded(target.substr(0, mark));
  if (!path) return false;
  request.path = *path;
  std::string_view rest = mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1);
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('&'), rest.size());
    const std::string_view pair = rest.substr(0, end);
    const size_t equals = std::min(pair.find('='), pair.size());
    const auto name = percent_decoded(pair.substr(0, equals));
    const auto value = percent_decoded(pair.substr(std::min(equals + 1, pair.size())));
    if (!name || !value) return false;
    request.query[*name] = *value;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return true;
}

/// \return the port that a URL of that scheme without one means, or nothing.
std::optional<uint16_t> default_port(std::string_view scheme) {
  if (scheme == "http") return uint16_t{80};
  if (scheme == "https") return uint16_t{443};
  return std::nullopt;
}

/// \return a parameter of a Forwarded field's first element, which the client's own proxy wrote, or an empty text.
std::string forwarded_parameter(std::string_view field, std::string_view name) {
  const std::string list = ";" + std::string(field);
  // The list ends at what is no parameter, as the comma before the next element.
  for (const auto& parameter : boost::beast::http::param_list(list)) {
    if (iequals({parameter.first.data(), parameter.first.size()}, {name.data(), name.size()}))
      return std::string(parameter.second);
  }
  return {};
}

/// \return whether `name` is one of RFC 3986 (reg-name), with neither an end nor a beginning without a label.
bool is_host_name(std::string_view name) {
  constexpr std::string_view kMarks = "-._~!$&'()*+,;=";
  if (name.empty() || name.starts_with('.') || name.ends_with('.')) return false;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool is_plain = std::isalnum(static_cast<unsigned char>(name[i])) != 0 || kMarks.find(name[i]) != name.npos;
    const bool is_escape =
        name[i] == '%' && i + 2 < name.size() && hex_digit(name[i + 1]) >= 0 && hex_digit(name[i + 2]) >= 0;
    if (!is_plain && !is_escape) return false;
  }
  return true;
}

std::string_view first_of_list(std::string_view field) { return trimmed(field.substr(0, field.find(','))); }

/// \return the number, at most `limit` where it is larger than that, or nothing for a text that is none.
std::optional<uint64_t> capped_number(std::string_view digits, uint64_t limit) {
  uint64_t value = 0;
  const char* const end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value);
  if (stop != end || error == std::errc::invalid_argument) return std::nullopt;
  return error == std::errc::result_out_of_range ? limit : std::min(value, limit);
}

}  // namespace

std::string_view HttpRequest::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

std::optional<std::string> percent_decoded(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
    if (high < 0 || low < 0) return std::nullopt;
    decoded += static_cast<char>(high * 16 + low);
    i += 2;
  }
  if (decoded.find('\0') != std::string::npos || !is_utf8(decoded)) return std::nullopt;
  return decoded;
}

bool read_target(std::string_view target, HttpRequest& request) {
  if (target == "*" && request.method == "OPTIONS") {
    request.path = target;
    return true;
  }
  const size_t scheme_end = target.find("://");
  if (target.starts_with('/') || scheme_end == std::string_view::npos) return split_target(target, request);
  const std::string scheme = lower(target.substr(0, scheme_end));
  const std::string_view rest = target.substr(scheme_end + 3);
  const size_t path_start = std::min(rest.find_first_of("/?#"), rest.size());
  const auto authority = parse_authority(rest.substr(0, path_start));
  if (!default_port(scheme) || !authority) return false;
  request.headers["host"] = to_string(*authority);
  const std::string path(rest.substr(path_start));
  if (path.empty() && request.method == "OPTIONS") return read_target("*", request);
  return split_target(path.starts_with('/') ? path : "/" + path, request);
}

std::optional<Authority> parse_authority(std::string_view text) {
  const bool is_bracketed = text.starts_with('[');
  const size_t host_end = is_bracketed ? text.find(']') : std::min(text.find(':'), text.size());
  if (host_end == std::string_view::npos) return std::nullopt;
  Authority authority;
  boost::system::error_code error;
  if (is_bracketed) {
    const std::string inside(text.substr(1, host_end - 1));
    const auto address = boost::asio::ip::make_address_v6(inside, error);
    if (error || inside.find('%') != std::string::npos) return std::nullopt;  // no zones of one machine's own
    authority = {.host = "[" + address.to_string() + "]", .is_address = true};
    text.remove_prefix(host_end + 1);
  } else {
    authority.host = lower(text.substr(0, host_end));
    if (authority.host.ends_with('.')) authority.host.pop_back();
    if (!is_host_name(authority.host)) return std::nullopt;
    boost::asio::ip::make_address_v4(authority.host, error);
    authority.is_address = !error;
    text.remove_prefix(host_end);
  }
  if (text.empty() || text == ":") return authority;
  const auto port = capped_number(text.substr(1), 65536);
  if (text[0] != ':' || !port || *port == 0 || *port > 65535) return std::nullopt;
  authority.port = static_cast<uint16_t>(*port);
  return authority;
}

std::string to_string(const Authority& authority) {
  return authority.host + (authority.port ? ":" + std::to_string(*authority.port) : "");
}

std::optional<Origin> parse_origin(std::string_view text) {
  const size_t scheme_end = text.find("://");
  if (scheme_end == std::string_view::npos) return std::nullopt;
  const std::string scheme = lower(text.substr(0, scheme_end));
  const auto is_proper = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.';
  };
  if (scheme.empty() || scheme[0] < 'a' || !std::ranges::all_of(scheme, is_proper)) return std::nullopt;
  auto authority = parse_authority(text.substr(scheme_end + 3));
  if (!authority) return std::nullopt;
  if (!authority->port) authority->port = default_port(scheme);
  return Origin{scheme, *authority};
}

bool is_site_of(const Origin& origin, std::string_view host) {
  auto site = parse_authority(host);
  if (!site) return false;
  if (!site->port) site->port = default_port(origin.scheme);
  return *site == origin.authority;
}

std::string link_base(const HttpRequest& request) {
  const std::string_view forwarded = request.header("forwarded");
  std::string proto = lower(forwarded_parameter(forwarded, "proto"));
  if (!default_port(proto)) proto = lower(first_of_list(request.header("x-forwarded-proto")));
  if (!default_port(proto)) proto = "http";
  auto host = parse_authority(forwarded_parameter(forwarded, "host"));
  if (!host) host = parse_authority(first_of_list(request.header("x-forwarded-host")));
  if (!host) host = parse_authority(request.header("host"));
  return host ? proto + "://" + to_string(*host) : std::string();
}

Credentials parse_credentials(std::string_view field) {
  const size_t end = std::min(field.find(' '), field.size());
  return {lower(field.substr(0, end)), trimmed(field.substr(end))};
}

bool names_tag(std::string_view field, std::string_view tag, TagComparison comparison) {
  field = trimmed(field);
  if (field == "*") return true;
  while (true) {
    field.remove_prefix(std::min(field.find_first_not_of(" \t,"), field.size()));
    const bool is_weak = field.starts_with("W/");
    if (is_weak) field.remove_prefix(2);
    const size_t end = field.starts_with('"') ? field.find('"', 1) : std::string_view::npos;
    if (end == std::string_view::npos) return false;  // the list's end, or no list of tags
    if (field.substr(0, end + 1) == tag && (!is_weak || comparison == TagComparison::weak)) return true;
    field.remove_prefix(end + 1);
  }
}

Precondition precondition(const HttpRequest& request, std::string_view tag) {
  const std::string_view match = request.header("if-match"), none_match = request.header("if-none-match");
  if (!match.empty() && !names_tag(match, tag, TagComparison::strong)) return Precondition::failed;
  if (!none_match.empty() && names_tag(none_match, tag, TagComparison::weak)) return Precondition::not_modified;
  return Precondition::met;
}

std::optional<ByteRange> parse_range(std::string_view field, uint64_t size) {
  const size_t equals = field.find('=');
  if (equals == std::string_view::npos || lower(field.substr(0, equals)) != "bytes") return std::nullopt;
  field.remove_prefix(equals + 1);
  // Empty elements of the list count for nothing.
  while (!field.empty() && (field.front() == ',' || field.front() == ' ' || field.front() == '\t'))
    field.remove_prefix(1);
  while (!field.empty() && (field.back() == ',' || field.back() == ' ' || field.back() == '\t')) field.remove_suffix(1);
  const size_t dash = field.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const std::string_view first_digits = field.substr(0, dash), last_digits = field.substr(dash + 1);
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  const auto first = capped_number(first_digits, kMost), last = capped_number(last_digits, kMost);
  if (first_digits.empty()) {
    if (!last) return std::nullopt;
    const uint64_t count = std::min(*last, size);
    return ByteRange{size - count, count};
  }
  if (!first || (!last && !last_digits.empty()) || (last && *last < *first)) return std::nullopt;
  if (*first >= size) return ByteRange{size, 0};
  return ByteRange{*first, std::min(last.value_or(kMost), size - 1) - *first + 1};
}

std::optional<ByteRange> asked_range(const HttpRequest& request, std::string_view tag, uint64_t size) {
  const std::string_view condition = request.header("if-range");
  if (request.method != "GET" || (!condition.empty() && condition != tag)) return std::nullopt;
  return parse_range(request.header("range"), size);
}

}  // namespace nostos::server
