// Implements the routes.
#include "apps/server/router.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "apps/server/access.h"
#include "apps/server/api_error.h"
#include "apps/server/json_log.h"
#include "apps/server/storage.h"
#include "apps/server/uploads.h"
#include "apps/server/web_files.h"
#include "base/error.h"

namespace nostos::server {
namespace {

/// What is so of a route, as bits.
enum Trait : unsigned {
  kIsOpen = 1,         ///< for everybody
  kTakesPictures = 2,  ///< in its body, which may be large
  kReadsPictures = 8,  ///< whatever its body says
  kTakesLoras = 16,    ///< its body may name some
  kReadsLoras = 32,    ///< whatever its body says
};

struct Route {
  std::string_view method, pattern;
  void (*handler)(const Call& call);  ///< null for what is known elsewhere, and not here
  unsigned traits = 0;
  std::string_view instead{};  ///< without a handler: what serves in its place

  bool has(Trait trait) const { return (traits & trait) != 0; }
};

constexpr std::string_view kModelPattern = "/v1/models/{id}";
constexpr std::string_view kEditInstead =
    "to have a picture drawn anew or edited by a prompt, POST it to /v1/images/edits as a form, or to /v1/jobs as "
    "`image`";
constexpr std::string_view kDrawInstead =
    "pictures are neither enlarged nor restored here; to have one drawn anew in another size, POST it to "
    "/sdapi/v1/img2img with width, height and denoising_strength";
constexpr std::string_view kPngInfoInstead =
    "pictures are not described here; POST a PNG to /sdapi/v1/png-info to read the prompt that it was drawn with";

constexpr std::array kRoutes{
    Route{"POST", "/v1/jobs", post_job, kTakesPictures | kTakesLoras},
    Route{"GET", "/v1/jobs", list_jobs},
    Route{"GET", "/v1/jobs/{id}", get_job},
    Route{"DELETE", "/v1/jobs/{id}", delete_job},
    Route{"GET", "/v1/jobs/{id}/events", get_job_events},
    Route{"GET", "/v1/images/{id}", get_image},
    Route{"POST", "/v1/images/generations", openai_generate, kTakesPictures | kTakesLoras},
    Route{"GET", "/v1/storage", get_storage},
    Route{"GET", "/v1/loras", list_loras},
    Route{"POST", "/v1/images/edits", openai_edit, kTakesPictures | kReadsPictures | kTakesLoras},
    Route{"POST", "/v1/images/variations", nullptr, 0, kEditInstead},
    Route{"GET", "/v1/models", list_models},
    Route{"GET", kModelPattern, get_model},
    Route{"POST", "/sdapi/v1/txt2img", a1111_txt2img, kTakesPictures | kTakesLoras},
    Route{"POST", "/sdapi/v1/img2img", a1111_img2img, kTakesPictures | kReadsPictures | kTakesLoras},
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
    Route{"GET", "/sdapi/v1/loras", a1111_loras, kReadsLoras},
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
    Route{"POST", "/sdapi/v1/png-info", a1111_png_info, kTakesPictures | kReadsPictures},
    Route{"POST", "/sdapi/v1/extra-single-image", nullptr, 0, kDrawInstead},
    Route{"POST", "/sdapi/v1/extra-batch-images", nullptr, 0, kDrawInstead},
    Route{"POST", "/sdapi/v1/interrogate", nullptr, 0, kPngInfoInstead},
    Route{"GET", "/sdapi/v1/system-info/status", a1111_queue_status},
    Route{"GET", "/queue/status", a1111_queue_status},
    Route{"GET", "/internal/ping", a1111_ping, kIsOpen},
    Route{"GET", "/health/live", health_live, kIsOpen},
    Route{"GET", "/health/ready", health_ready, kIsOpen},
    Route{"GET", "/metrics", get_metrics},
};
constexpr Route kPage{"GET", "/", get_page, kIsOpen};

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

bool is_page(const HttpRequest& request) {
  return request.path == "/" || (request.path.starts_with('/') && web_file(request.path.substr(1)));
}

/// What there is at a path.
struct Found {
  const Route* route = nullptr;  ///< that takes the request's method
  std::string id{};
  std::string methods{};  ///< all that the path takes, as Allow lists them; empty if there is nothing
  bool is_open = false;   ///< for everybody
};

Found find_route(const HttpRequest& request) {
  Found found;
  std::vector<std::pair<const Route*, std::string_view>> matches;
  if (is_page(request)) matches.emplace_back(&kPage, std::string_view());
  for (const Route& route : kRoutes) {
    if (const auto id = match(route.pattern, request.path)) matches.emplace_back(&route, *id);
  }
  // "/v1/images/generations" is no picture of that name.
  const bool is_literal = std::ranges::any_of(matches, [](const auto& match) { return match.second.empty(); });
  if (is_literal) std::erase_if(matches, [](const auto& match) { return !match.second.empty(); });
  const std::string_view method = request.method == "HEAD" ? "GET" : std::string_view(request.method);
  for (const auto& [route, id] : matches) {
    if (route->method == method) found.route = route;
    found.id = std::string(id);
    found.is_open |= route->has(kIsOpen);
    found.methods += std::string(route->method) + (route->method == "GET" ? ", HEAD, " : ", ");
  }
  if (!matches.empty()) found.methods += "OPTIONS";
  if (request.path == "*") found = {.methods = "DELETE, GET, HEAD, OPTIONS, POST", .is_open = true};
  return found;
}

/// \return the refusal of a route that others' APIs have, and this one has not.
ApiError not_served(const Route& route) {
  return {501,
          "invalid_request_error",
          fmt::format("{} is not served here: {}", route.pattern, route.instead),
          {},
          "unsupported"};
}

/// Checks what can be checked before the body is read. \return what answers, null for OPTIONS \throws ApiError
const Route* admit(const ServerState& state, const HttpRequest& request, const Found& found) {
  const bool by_any_name = !state.api_key.empty() || state.lets_all_in;
  // The browser asks before it sends a page's key. What it learns is what path and methods there are.
  const bool is_ahead = is_preflight(request) && is_let_in(state.allowed_origins, request);
  if (!found.is_open && !is_ahead) check_key(state.api_key, request);
  if (!found.is_open) check_host(by_any_name, request);
  check_origin(by_any_name, state.allowed_origins, request);
  if (found.methods.empty())
    throw ApiError(404, "not_found_error", "no such path; docs/api.md lists those that are known");
  if (request.method == "OPTIONS") return nullptr;
  if (found.route == nullptr) throw method_not_allowed(found.methods);
  if (found.route->handler == nullptr) throw not_served(*found.route);
  const std::string coding(request.header("content-encoding"));
  if (!coding.empty() && coding != "identity")
    throw ApiError(415, "invalid_request_error", "bodies are read without Content-Encoding alone, not as " + coding,
                   "Content-Encoding");
  return found.route;
}

HttpResponse answer_of(const HttpRequest& request, const ApiError& error) {
  HttpResponse response = error_answer(request.path, error);
  if (!error.allowed.empty()) response.headers.emplace_back("Allow", error.allowed);
  return response;
}

HttpResponse options_answer(const HttpRequest& request, const std::string& methods) {
  HttpResponse response{.status = 204, .headers = {{"Allow", methods}, {"Cache-Control", "no-store"}}};
  if (is_preflight(request))
    std::ranges::move(preflight_headers(request, methods), std::back_inserter(response.headers));
  return response;
}

/// Adds fields to whatever answer comes.
class WithHeaders : public Responder {
 public:
  WithHeaders(ResponderPtr out, HttpHeaders headers) : out_(std::move(out)), headers_(std::move(headers)) {}

  void reply(HttpResponse response) override { out_->reply(added(std::move(response))); }
  void start_stream(HttpResponse head) override { out_->start_stream(added(std::move(head))); }
  void write(std::string bytes) override { out_->write(std::move(bytes)); }
  void finish() override { out_->finish(); }
  void on_disconnect(std::function<void()> gone) override { out_->on_disconnect(std::move(gone)); }

 private:
  HttpResponse added(HttpResponse response) const {
    response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
    return response;
  }

  const ResponderPtr out_;
  const HttpHeaders headers_;
};

/// \return whether answering takes as long as reading pictures does. Of JSON, whether it may have a field `image` or
/// `input_image`: a name is written as it is, or with escapes, of which no letter of this one needs another than \u006.
bool reads_pictures(const Route& route, const HttpRequest& request) {
  const std::string_view body = request.body;
  return route.has(kReadsPictures) ||
         (route.has(kTakesPictures) && (body.size() > HttpLimits{}.body_bytes || body.find("image\"") != body.npos ||
                                        body.find("\\u006") != body.npos));
}

/// Runs what answers a request, and answers in its place where it throws.
template <class Work>
void guarded(ServerState& state, const HttpRequest& request, const ResponderPtr& out, const Work& work) {
  try {
    work();
  } catch (const ApiError& error) {
    out->reply(answer_of(request, error));
  } catch (const StorageError& error) {
    out->reply(answer_of(request, insufficient_storage(error.reason())));
  } catch (const std::exception& error) {
    log_json(LogLevel::error, "request failed", {{"request", request.id}, {"error", error.what()}});
    state.metrics.add("nostos_errors_total", "kind=\"internal\"");
    out->reply(answer_of(request, ApiError(500, "server_error", error.what())));
  }
}

/// \return whether answering may read LoRAs: whether the body may name any, in letters of any case, as they are or with
/// escapes such as \u006c and \u003c.
bool reads_loras(const ServerState& state, const Route& route, const HttpRequest& request) {
  const auto model = state.model_if_ready();
  if (model == nullptr || model->limits.loras == nullptr) return false;
  constexpr std::string_view kWord = "lora", kEscape = "\\u00";
  const auto is_same = [](unsigned char a, unsigned char b) { return std::tolower(a) == b; };
  const std::string_view body = request.body;
  return route.has(kReadsLoras) || (route.has(kTakesLoras) && (body.find(kEscape) != body.npos ||
                                                               std::search(body.begin(), body.end(), kWord.begin(),
                                                                           kWord.end(), is_same) != body.end()));
}

/// Has the request answered once the files of earlier ones are read. \param what these are: "pictures" or "loras"
void answer_in_turn(ServerState& state, const Found& found, HttpRequest&& request, const ResponderPtr& out,
                    const std::string& what) {
  const auto& post = what == "pictures" ? state.post_pictures : state.post_loras;
  const auto kept = std::make_shared<const HttpRequest>(std::move(request));
  const bool waits = post([&state, found, kept, out] {
    guarded(state, *kept, out, [&] { found.route->handler({state, *kept, found.id, out}); });
  });
  if (waits) return;
  const std::string code = fmt::format("too_many_{}", what);
  out->reply(answer_of(*kept, overloaded(code, fmt::format("other clients' {} are read first", what), 5)));
}

}  // namespace

void route(ServerState& state, HttpRequest&& request, const ResponderPtr& responder) {
  const HttpHeaders headers = cross_origin_headers(state.allowed_origins, request);
  const ResponderPtr out = headers.empty() ? responder : std::make_shared<WithHeaders>(responder, headers);
  guarded(state, request, out, [&] {
    const Found found = find_route(request);
    const Route* const wanted = admit(state, request, found);
    if (wanted == nullptr)
      out->reply(options_answer(request, found.methods));
    else if (reads_pictures(*wanted, request))
      answer_in_turn(state, found, std::move(request), out, "pictures");
    else if (reads_loras(state, *wanted, request))
      answer_in_turn(state, found, std::move(request), out, "loras");
    else
      wanted->handler({state, request, found.id, out});
  });
}

size_t body_limit(const ServerState& state, const HttpRequest& request, size_t usual) {
  try {
    const Route* const route = admit(state, request, find_route(request));
    const bool is_ready = state.model_if_ready() != nullptr;
    return route != nullptr && route->has(kTakesPictures) && is_ready ? kMaxUploadBodyBytes : usual;
  } catch (const std::exception&) {
    return usual;  // it is refused, whatever its body says
  }
}

std::vector<RouteName> route_names() {
  std::vector<RouteName> names{{kPage.method, kPage.pattern}};
  for (const Route& route : kRoutes) names.push_back({route.method, route.pattern});
  return names;
}

std::string_view route_pattern(const HttpRequest& request) {
  const Found found = find_route(request);
  return found.route == nullptr ? "other" : found.route->pattern;
}

HttpResponse refuse(ServerState& state, const HttpRequest& request, int status, const std::string& message) {
  HttpResponse response = error_answer(request.path, listener_error(status, message));
  try {
    // Who may not ask, or asks for what is not here, gains nothing by a smaller body.
    if (status == 413) admit(state, request, find_route(request));
  } catch (const ApiError& error) {
    response = answer_of(request, error);
  }
  std::ranges::copy(cross_origin_headers(state.allowed_origins, request), std::back_inserter(response.headers));
  return response;
}

}  // namespace nostos::server
