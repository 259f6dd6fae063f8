// Owns names that nobody can guess or that travel safely: ids of jobs and requests, and the comparison of keys.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nostos::server {

/// \return `prefix` and 24 random hexadecimal digits from the system's generator.
std::string random_id(std::string_view prefix);

/// \return a random seed below 2^32, which every client's JSON reads exactly.
uint64_t random_seed();

/// \return `given` if it is 1 to 64 of A-Za-z0-9._-, else a new id.
std::string request_id(std::string_view given);

/// \return whether the texts are equal, in a time that depends on their lengths alone.
bool equal_in_constant_time(std::string_view secret, std::string_view given);

/// \return the FNV-1a hash of `text` as 16 hexadecimal digits.
std::string fingerprint(std::string_view text);

/// \return `bytes` in base64 with padding.
std::string to_base64(std::string_view bytes);
/// What may stand between the characters of base64: nothing, or spaces and the ends of lines, as encoders of MIME write
/// them (RFC 2045, section 6.8).
enum class Base64Form { plain, with_spaces };

/// \return what `text` stands for, or an empty text if it is no base64.
std::string from_base64(std::string_view text, Base64Form form = Base64Form::plain);

}  // namespace nostos::server
