// Implements the routes.
#include "apps/server/router.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "apps/server/json_log.h"
#include "apps/server/web_files.h"
#include "base/error.h"

namespace nostos::server {
namespace {

struct Route {
  std::string_view method, pattern;
  void (*handler)(const Call& call);
  bool is_open = false;  ///< for everybody
};

constexpr std::string_view kModelPattern = "/v1/models/{id}";

constexpr std::array kRoutes{
    Route{"POST", "/v1/jobs", post_job},
    Route{"GET", "/v1/jobs", list_jobs},
    Route{"GET", "/v1/jobs/{id}", get_job},
    Route{"DELETE", "/v1/jobs/{id}", delete_job},
    Route{"GET", "/v1/jobs/{id}/events", get_job_events},
    Route{"GET", "/v1/images/{id}", get_image},
    Route{"POST", "/v1/images/generations", openai_generate},
    Route{"GET", "/v1/models", list_models},
    Route{"GET", kModelPattern, get_model},
    Route{"POST", "/sdapi/v1/txt2img", a1111_txt2img},
    Route{"GET", "/sdapi/v1/progress", a1111_progress},
    Route{"POST", "/sdapi/v1/interrupt", a1111_interrupt},
    Route{"POST", "/sdapi/v1/skip", a1111_skip},
    Route{"GET", "/sdapi/v1/options", a1111_options},
    Route{"POST", "/sdapi/v1/options", a1111_set_options},
    Route{"GET", "/sdapi/v1/sd-models", a1111_models},
    Route{"GET", "/sdapi/v1/samplers", a1111_samplers},
    Route{"GET", "/sdapi/v1/schedulers", a1111_schedulers},
    Route{"GET", "/sdapi/v1/upscalers", a1111_upscalers},
    Route{"GET", "/sdapi/v1/latent-upscale-modes", a1111_nothing_listed},
    Route{"GET", "/sdapi/v1/sd-vae", a1111_nothing_listed},
    Route{"GET", "/sdapi/v1/sd-modules", a1111_nothing_listed},
    Route{"GET", "/sdapi/v1/loras", a1111_nothing_listed},
    Route{"GET", "/sdapi/v1/hypernetworks", a1111_nothing_listed},
    Route{"GET", "/sdapi/v1/face-restorers", a1111_nothing_listed},
    Route{"GET", "/sdapi/v1/realesrgan-models", a1111_nothing_listed},
    Route{"GET", "/sdapi/v1/prompt-styles", a1111_nothing_listed},
    Route{"GET", "/sdapi/v1/script-info", a1111_nothing_listed},
    Route{"GET", "/sdapi/v1/scripts", a1111_scripts},
    Route{"GET", "/sdapi/v1/embeddings", a1111_embeddings},
    Route{"GET", "/sdapi/v1/cmd-flags", a1111_cmd_flags},
    Route{"GET", "/sdapi/v1/memory", a1111_memory},
    Route{"POST", "/sdapi/v1/refresh-checkpoints", a1111_nothing_done},
    Route{"POST", "/sdapi/v1/refresh-vae", a1111_nothing_done},
    Route{"POST", "/sdapi/v1/refresh-loras", a1111_nothing_done},
    Route{"POST", "/sdapi/v1/png-info", a1111_png_info},
    Route{"GET", "/health/live", health_live, true},
    Route{"GET", "/health/ready", health_ready, true},
    Route{"GET", "/metrics", get_metrics},
};
constexpr Route kPage{"GET", "/", get_page, true};

/// \return what stands for {id} (empty without one) if `path` is of `pattern`, else nothing.
std::optional<std::string_view> match(std::string_view pattern, std::string_view path) {
  const size_t mark = pattern.find("{id}");
  if (mark == std::string_view::npos) return path == pattern ? std::optional(std::string_view()) : std::nullopt;
  const std::string_view before = pattern.substr(0, mark), after = pattern.substr(mark + 4);
  if (path.size() <= before.size() + after.size() || !path.starts_with(before) || !path.ends_with(after))
    return std::nullopt;
  const std::string_view id = path.substr(before.size(), path.size() - before.size() - after.size());
  // Models of Hugging Face have a slash in their names.
  return pattern == kModelPattern || id.find('/') == std::string_view::npos ? std::optional(id) : std::nullopt;
}

bool takes(const Route& route, const std::string& method) {
  return route.method == method || (route.method == "GET" && method == "HEAD");
}

bool is_page(const HttpRequest& request) {
  return request.path == "/" || web_file(std::string_view(request.path).substr(1)).has_value();
}

struct Found {
  const Route* route = nullptr;
  std::string id{};
  std::string allowed{};  ///< methods of a path that does not take the request's
};

Found find_route(const HttpRequest& request) {
  Found found;
  const auto consider = [&](const Route& route, std::string_view id) {
    if (takes(route, request.method)) {
      if (found.route == nullptr) found = {&route, std::string(id), {}};
    } else {
      found.allowed += (found.allowed.empty() ? "" : ", ") + std::string(route.method);
    }
  };
  for (const Route& route : kRoutes) {
    if (const auto id = match(route.pattern, request.path)) consider(route, *id);
  }
  if (is_page(request)) consider(kPage, {});
  return found;
}

std::string host_without_port(std::string_view host) {
  if (host.starts_with('[')) return std::string(host.substr(0, host.find(']') + 1));
  return std::string(host.substr(0, host.find(':')));
}

bool is_numeric_or_local(const std::string& host) {
  if (host == "localhost" || host.starts_with('[')) return true;
  return !host.empty() && std::ranges::all_of(host, [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
}

void answer(ServerState& state, const HttpRequest& request, const ResponderPtr& responder) {
  const Found found = find_route(request);
  const bool has_key = !state.api_key.empty();
  if (found.route == nullptr || !found.route->is_open) {
    check_key(state.api_key, request);
    check_host(has_key || state.lets_all_in, request);
  }
  check_origin(has_key, request);
  if (found.route == nullptr && !found.allowed.empty()) throw method_not_allowed(found.allowed);
  if (found.route == nullptr)
    throw ApiError(404, "not_found_error", "no such path; docs/api.md lists those that are known");
  found.route->handler({state, request, found.id, responder});
}

}  // namespace

void route(ServerState& state, const HttpRequest& request, const ResponderPtr& responder) {
  const auto refuse = [&](const ApiError& error) {
    HttpResponse response = error_answer(request.path, error);
    if (!error.allowed.empty()) response.headers.emplace_back("Allow", error.allowed);
    responder->reply(std::move(response));
  };
  try {
    answer(state, request, responder);
  } catch (const ApiError& error) {
    refuse(error);
  } catch (const std::exception& error) {
    log_json(LogLevel::error, "request failed", {{"request", request.id}, {"error", error.what()}});
    state.metrics.add("nostos_errors_total", "kind=\"internal\"");
    refuse(ApiError(500, "server_error", error.what()));
  }
}

std::string_view route_pattern(const HttpRequest& request) {
  const Found found = find_route(request);
  return found.route == nullptr ? "other" : found.route->pattern;
}

void check_key(const std::string& key, const HttpRequest& request) {
  if (key.empty()) return;
  const std::string_view header = request.header("authorization");
  bool is_right = header.starts_with("Bearer ") && equal_in_constant_time(key, header.substr(7));
  if (header.starts_with("Basic ")) {
    const std::string login = from_base64(header.substr(6));
    const size_t colon = login.find(':');
    if (colon != std::string::npos) is_right |= equal_in_constant_time(key, std::string_view(login).substr(colon + 1));
  }
  constexpr std::string_view kCookie = "nostos_key=";
  const std::string_view cookies = request.header("cookie");
  for (size_t start = 0; start < cookies.size();) {
    const size_t end = std::min(cookies.find(';', start), cookies.size());
    std::string_view cookie = cookies.substr(start, end - start);
    while (cookie.starts_with(' ')) cookie.remove_prefix(1);
    if (cookie.starts_with(kCookie)) {
      const auto value = percent_decoded(cookie.substr(kCookie.size()));
      is_right |= value && equal_in_constant_time(key, *value);
    }
    start = end + 1;
  }
  if (is_right) return;
  const bool has_any = !header.empty() || cookies.find(kCookie) != std::string_view::npos;
  throw ApiError(401, "authentication_error",
                 has_any ? "the API key is wrong" : "this server wants an API key: Authorization: Bearer KEY", {},
                 "invalid_api_key");
}

void check_origin(bool has_key, const HttpRequest& request) {
  const std::string_view origin = request.header("origin");
  if (origin.empty()) return;
  const size_t scheme = origin.find("://");
  const std::string_view from = scheme == std::string_view::npos ? std::string_view() : origin.substr(scheme + 3);
  const bool is_own = !from.empty() && from == request.header("host");
  if (!is_own || (!has_key && !is_numeric_or_local(host_without_port(from))))
    throw ApiError(403, "permission_error", "pages of other sites may not use this server", {}, "foreign_origin");
}

void check_host(bool by_any_name, const HttpRequest& request) {
  if (by_any_name || is_numeric_or_local(host_without_port(request.header("host")))) return;
  throw ApiError(403, "permission_error",
                 "this server has no API key and answers to localhost and IP addresses alone: use its address, or give "
                 "it --api-key-file",
                 "Host", "foreign_host");
}

}  // namespace nostos::server
