// Owns the reading of forms with files (multipart/form-data), as OpenAI's clients send pictures.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nostos::server {

constexpr size_t kMaxFormParts = 64;
constexpr size_t kMaxPartHeaderBytes = size_t{4} << 10;  ///< of all headers of a part

/// A field of a form.
struct FormPart {
  std::string name;
  std::string file{};    ///< what a file is called, without folders, UTF-8 of one line; empty for a plain field
  bool is_file = false;  ///< whether the part says that it is one
  std::string_view body{};
};

/// \param content_type the request's header, which names the boundary
/// \return the fields in their order, without what stands before the first boundary and behind the last; `body` of each
/// lies in the argument.
/// \throws ApiError 415 unless it is multipart/form-data, 400 if the form is not whole, has parts without a name, parts
/// of parts or encoded ones, or goes beyond the limits above. Source: RFC 7578, RFC 2046, section 5.1
std::vector<FormPart> parse_multipart(std::string_view content_type, std::string_view body);

}  // namespace nostos::server
