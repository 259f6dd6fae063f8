// Owns how the head of a request is read (RFC 9112), once Beast has split it into lines.
#pragma once

#include <boost/beast/http/message.hpp>
#include <optional>
#include <string>

#include "apps/server/http.h"

namespace nostos::server {

/// Why a request is not taken.
struct Refusal {
  int status = 400;
  std::string message{};
};

/// Reads method, target and fields into `request`, those before the fault if there is one. A field that comes several
/// times becomes one list; one that holds a single value may come once.
/// \return nothing, or what is wrong with the head; where the next request begins is not known then.
std::optional<Refusal> read_head(const boost::beast::http::request_header<>& head, HttpRequest& request);

}  // namespace nostos::server
