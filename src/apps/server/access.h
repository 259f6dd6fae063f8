// Owns who may ask: keys, the names that this server answers to, and pages of other sites.
#pragma once

#include <span>
#include <string>

#include "apps/server/http.h"
#include "apps/server/http_text.h"

namespace nostos::server {

/// \throws ApiError 401 unless `key` is empty or the request carries it
void check_key(const std::string& key, const HttpRequest& request);

/// Without a key this machine's name is what tells its own pages from others: a browser gives no Origin when a page
/// reads from its own site, and any site can have its name lead here (DNS rebinding).
/// \param by_any_name the server wants a key, or was told to let everybody in
/// \throws ApiError 403 unless that is so or the request's Host is localhost or an IP address
void check_host(bool by_any_name, const HttpRequest& request);

/// \return the origin that `--allow-origin` names. \throws Error invalid_input for what names none, or many
Origin read_allowed_origin(const std::string& flag);
/// \return whether a page of one of the `allowed` origins makes the request.
bool is_let_in(std::span<const Origin> allowed, const HttpRequest& request);
/// \param by_any_name as check_host() \throws ApiError 403 for a request that the page of another site makes, unless
/// its origin is let in
void check_origin(bool by_any_name, std::span<const Origin> allowed, const HttpRequest& request);

/// \return whether a browser asks if a page of another site may send a request like this.
bool is_preflight(const HttpRequest& request);
/// \return the fields that say so to the browser. \param methods that the path takes, as Allow lists them
HttpHeaders preflight_headers(const HttpRequest& request, const std::string& methods);
/// \return the fields that let a page of an `allowed` origin read any answer; to others, that it depends on who asks.
HttpHeaders cross_origin_headers(std::span<const Origin> allowed, const HttpRequest& request);

}  // namespace nostos::server
