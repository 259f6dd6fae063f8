// Owns which handler answers which path, who may ask, and the shape of refusals.
#pragma once

#include "apps/server/http.h"
#include "apps/server/state.h"

namespace nostos::server {

/// Answers any request: finds its handler, checks key, host and origin, turns exceptions into answers. Never throws.
void route(ServerState& state, const HttpRequest& request, const ResponderPtr& responder);

/// \return the pattern that the request's path matches, e.g. "/v1/jobs/{id}": one of a few, for metrics.
std::string_view route_pattern(const HttpRequest& request);

/// \throws ApiError 401 unless `key` is empty or the request carries it
void check_key(const std::string& key, const HttpRequest& request);
/// \throws ApiError 403 for a request that another site's page makes. \param has_key the server wants a key
void check_origin(bool has_key, const HttpRequest& request);
/// Without a key this machine's name is what tells its own pages from others: a browser gives no Origin when a page reads
/// from its own site, and any site can have its name lead here (DNS rebinding).
/// \param by_any_name the server wants a key, or was told to let everybody in
/// \throws ApiError 403 unless that is so or the request's Host is localhost or an IP address
void check_host(bool by_any_name, const HttpRequest& request);

}  // namespace nostos::server
