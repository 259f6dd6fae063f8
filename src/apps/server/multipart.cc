// Implements the reading of forms with files. It is strict: what is no proper form is refused, not guessed at.
#include "apps/server/multipart.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>

#include "apps/server/api_error.h"
#include "io/utf8.h"

namespace nostos::server {
namespace {

constexpr size_t kMaxBoundaryBytes = 70;
constexpr size_t kMaxNameBytes = 256;

template <class... Args>
[[noreturn]] void refuse_form(fmt::format_string<Args...> format, Args&&... args) {
  refuse_field("", "invalid_form", "the form is not proper: {}", fmt::format(format, std::forward<Args>(args)...));
}

std::string lower(std::string_view text) {
  std::string made(text);
  std::ranges::transform(made, made.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return made;
}

std::string_view trimmed(std::string_view text) {
  const auto is_blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

/// A header's value and what follows it: `form-data; name="image"`.
struct HeaderValue {
  std::string value;                              ///< in lower case
  std::map<std::string, std::string> parameters;  ///< names in lower case
};

/// Takes a parameter's value, in quotes or not, off the front of `text`. \return nothing if it is none
std::optional<std::string> take_value(std::string_view& text) {
  if (!text.starts_with('"')) {
    const size_t end = std::min(text.find(';'), text.size());
    std::string value(trimmed(text.substr(0, end)));
    text.remove_prefix(end);
    if (value.empty()) return std::nullopt;
    return value;
  }
  std::string value;
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '"') {
      text.remove_prefix(i + 1);
      return value;
    }
    // A backslash stands before quotes and itself; browsers of old sent folders with it.
    const bool is_escape = text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == '"' || text[i + 1] == '\\');
    if (is_escape) ++i;
    value += text[i];
  }
  return std::nullopt;
}

/// \return nothing for what is no such value.
std::optional<HeaderValue> header_value(std::string_view text) {
  HeaderValue header;
  const size_t end = std::min(text.find(';'), text.size());
  header.value = lower(trimmed(text.substr(0, end)));
  text.remove_prefix(end);
  for (text = trimmed(text); !text.empty(); text = trimmed(text)) {
    if (!text.starts_with(';')) return std::nullopt;
    text = trimmed(text.substr(1));
    if (text.empty()) break;
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos || equals == 0) return std::nullopt;
    const std::string name = lower(trimmed(text.substr(0, equals)));
    text = trimmed(text.substr(equals + 1));
    auto value = take_value(text);
    if (!value || !header.parameters.emplace(name, std::move(*value)).second) return std::nullopt;
  }
  return header;
}

std::string boundary_of(std::string_view content_type) {
  if (lower(trimmed(content_type.substr(0, content_type.find(';')))) != "multipart/form-data")
    throw ApiError(415, "invalid_request_error", "this path takes a form with files: Content-Type multipart/form-data",
                   "Content-Type");
  const auto header = header_value(content_type);
  if (!header || !header->parameters.contains("boundary")) refuse_form("Content-Type names no boundary");
  const std::string& boundary = header->parameters.at("boundary");
  const auto is_allowed = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("'()+_,-./:=? ").find(static_cast<char>(c)) != std::string::npos;
  };
  if (boundary.empty() || boundary.size() > kMaxBoundaryBytes || boundary.back() == ' ' ||
      !std::ranges::all_of(boundary, is_allowed))
    refuse_form("a boundary has 1 to {} letters, digits and '()+_,-./:=?", kMaxBoundaryBytes);
  return boundary;
}

/// \return a file's name without folders and control characters, as UTF-8, at most kMaxNameBytes.
std::string plain_name(std::string_view given) {
  if (const size_t folder = given.find_last_of("/\\"); folder != std::string_view::npos)
    given.remove_prefix(folder + 1);
  std::u32string points = decode_utf8(given);
  std::erase_if(points, [](char32_t c) { return c < 0x20 || (c >= 0x7f && c < 0xa0); });
  while (encode_utf8(points).size() > kMaxNameBytes) points.pop_back();
  return encode_utf8(points);
}

void read_header(std::string_view line, FormPart& part) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || colon == 0) refuse_form("a part has a line that is no header");
  const std::string name = lower(line.substr(0, colon));
  const auto header = header_value(line.substr(colon + 1));
  if (name == "content-transfer-encoding") {
    const bool is_plain = header && (header->value == "binary" || header->value == "8bit" || header->value == "7bit");
    if (!is_plain) refuse_form("a part is encoded; forms of HTTP hold their files as they are");
  }
  if (name == "content-type" && header && header->value.starts_with("multipart/"))
    refuse_form("a part has parts of its own; give each file a part");
  if (name != "content-disposition") return;
  if (!part.name.empty()) refuse_form("a part has two names");
  if (!header || header->value != "form-data" || !header->parameters.contains("name"))
    refuse_form("a part has no Content-Disposition of form-data with a name");
  part.name = header->parameters.at("name");
  if (part.name.empty() || part.name.size() > kMaxNameBytes)
    refuse_form("a part's name has 1 to {} bytes", kMaxNameBytes);
  const auto file = header->parameters.find("filename");
  part.is_file = file != header->parameters.end();
  if (part.is_file) part.file = plain_name(file->second);
}

/// \param text of a part between two boundaries, without the line's end before the second
FormPart read_part(std::string_view text) {
  FormPart part;
  // The header's lines end with the first empty one; that a part begins with it means that it has no header.
  const size_t end = text.substr(0, kMaxPartHeaderBytes + 4).find("\r\n\r\n");
  if (end == std::string_view::npos) refuse_form("a part has no headers, or more than {} bytes", kMaxPartHeaderBytes);
  part.body = text.substr(end + 4);
  for (std::string_view headers = text.substr(0, end); !headers.empty();) {
    const size_t line_end = std::min(headers.find("\r\n"), headers.size());
    read_header(headers.substr(0, line_end), part);
    headers.remove_prefix(std::min(line_end + 2, headers.size()));
  }
  if (part.name.empty()) refuse_form("a part has no Content-Disposition of form-data with a name");
  return part;
}

/// Takes what ends a boundary's line off the front of `body`: blanks, and the line's end.
void take_line_end(std::string_view& body) {
  body.remove_prefix(std::min(body.find_first_not_of(" \t"), body.size()));
  if (!body.starts_with("\r\n")) refuse_form("a boundary is not the end of its line");
  body.remove_prefix(2);
}

}  // namespace

std::vector<FormPart> parse_multipart(std::string_view content_type, std::string_view body) {
  const std::string delimiter = "\r\n--" + boundary_of(content_type);
  // What stands before the first boundary and behind the last is nobody's, and counts for nothing.
  if (body.starts_with(std::string_view(delimiter).substr(2))) {
    body.remove_prefix(delimiter.size() - 2);
  } else {
    const size_t first = body.find(delimiter);
    if (first == std::string_view::npos) refuse_form("its boundary is nowhere");
    body.remove_prefix(first + delimiter.size());
  }
  std::vector<FormPart> parts;
  while (!body.starts_with("--")) {
    take_line_end(body);
    const size_t end = body.find(delimiter);
    if (end == std::string_view::npos) refuse_form("it ends before its last boundary");
    if (parts.size() == kMaxFormParts) refuse_form("it has more than {} parts", kMaxFormParts);
    parts.push_back(read_part(body.substr(0, end)));
    body.remove_prefix(end + delimiter.size());
  }
  body.remove_prefix(2);
  if (!trimmed(body).empty()) take_line_end(body);
  return parts;
}

}  // namespace nostos::server
