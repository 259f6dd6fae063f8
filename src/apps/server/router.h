// Owns which handler answers which path, and the shape of refusals.
#pragma once

#include <string_view>
#include <vector>

#include "apps/server/http.h"
#include "apps/server/state.h"

namespace nostos::server {

/// Answers any request: finds its handler, checks key, host and origin, turns exceptions into answers. Requests whose
/// pictures are to be read wait for their turn, and are refused where too many do. Never throws.
void route(ServerState& state, HttpRequest&& request, const ResponderPtr& responder);

/// \return how many bytes the body of a request may have: more than `usual` where it may hold pictures that the model
/// takes, of a client that is let in. Never throws. \param request its head
size_t body_limit(const ServerState& state, const HttpRequest& request, size_t usual);

struct RouteName {
  std::string_view method, pattern;
};
/// \return every route that there is, those that are refused, too; of the page's files "/" alone.
std::vector<RouteName> route_names();

/// \return the pattern that the request's path matches, e.g. "/v1/jobs/{id}": one of a few, for metrics.
std::string_view route_pattern(const HttpRequest& request);

/// \return the answer to a request that the listener does not take, with what it says of that. Never throws.
/// \param request what could be read of it, its path perhaps empty
HttpResponse refuse(ServerState& state, const HttpRequest& request, int status, const std::string& message);

}  // namespace nostos::server
