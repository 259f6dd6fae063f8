// Owns what HTTP writes into text: targets, hosts, origins, ranges, tags, and what proxies say (RFC 3986, 7239, 9110).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "apps/server/http.h"

namespace nostos::server {

/// \return `text` with %XX decoded, or nothing for a broken escape, a NUL, or a text that is no UTF-8.
std::optional<std::string> percent_decoded(std::string_view text);

/// Reads a request's target into request.path and request.query. The origin-form begins with '/'; the absolute-form is
/// an http or https URL, whose host replaces the Host field; the asterisk-form, of OPTIONS alone, has the path "*".
/// \param request its method is read \return whether the target is proper
bool read_target(std::string_view target, HttpRequest& request);

/// Whom a Host or Forwarded field, an origin or an absolute target names.
struct Authority {
  std::string host;                ///< lower case, without a final dot; IPv6 in brackets, in its shortest form
  std::optional<uint16_t> port{};  ///< 1 to 65535
  bool is_address = false;         ///< IPv4 or IPv6, not a name

  bool operator==(const Authority&) const = default;
};
/// \return the authority, or nothing for a text that is none: no host, user information, a port out of range.
std::optional<Authority> parse_authority(std::string_view text);
/// \return "host" or "host:port".
std::string to_string(const Authority& authority);

/// Where a page comes from.
struct Origin {
  std::string scheme;   ///< lower case
  Authority authority;  ///< of http and https always with a port

  bool operator==(const Origin&) const = default;
};
/// \return the origin that `scheme://host` or `scheme://host:port` names; nothing for other texts, "null" among them.
std::optional<Origin> parse_origin(std::string_view text);
/// \return whether `host`, a Host field, names the site that `origin` is of. A host without a port has the default one
/// of the origin's scheme.
bool is_site_of(const Origin& origin, std::string_view host);

/// \return "scheme://host:port" that the client used, to begin links with: what the first proxy says (Forwarded, else
/// X-Forwarded-Proto and -Host), else http and the Host field. Empty where nobody names a host.
std::string link_base(const HttpRequest& request);

/// What an Authorization field holds.
struct Credentials {
  std::string scheme;      ///< lower case
  std::string_view value;  ///< a part of the field
};
Credentials parse_credentials(std::string_view field);

/// How tags are compared: weakly, W/"x" is "x"; strongly, no weak tag equals any.
enum class TagComparison { weak, strong };
/// \param field of If-Match or If-None-Match: tags, or * \param tag in its quotes \return whether `field` has `tag`
bool names_tag(std::string_view field, std::string_view tag, TagComparison comparison);

/// What If-Match and If-None-Match make of a GET or HEAD.
enum class Precondition { met, not_modified, failed };
/// \param tag of what would be answered
Precondition precondition(const HttpRequest& request, std::string_view tag);

/// A part of some bytes.
struct ByteRange {
  uint64_t first = 0, count = 0;

  bool operator==(const ByteRange&) const = default;
};
/// \return the part that a Range field asks for of `size` bytes, with a count of 0 if they have none of it. Nothing if
/// the field is to be ignored: another unit, several ranges, no proper range.
std::optional<ByteRange> parse_range(std::string_view field, uint64_t size);
/// \return what parse_range() says of a GET whose If-Range, if any, is `tag`; nothing where the whole is to be sent.
std::optional<ByteRange> asked_range(const HttpRequest& request, std::string_view tag, uint64_t size);

}  // namespace nostos::server
