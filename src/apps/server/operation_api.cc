// Implements what operators and browsers ask for: health, metrics, and the page.
#include <unistd.h>

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "apps/server/state.h"
#include "apps/server/web_files.h"

namespace nostos::server {
namespace {

std::string_view content_type(std::string_view file) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 5> kTypes{
      {{".html", "text/html; charset=utf-8"},
       {".js", "text/javascript; charset=utf-8"},
       {".css", "text/css; charset=utf-8"},
       {".svg", "image/svg+xml"},
       {".png", "image/png"}}};
  for (const auto& [extension, type] : kTypes) {
    if (file.ends_with(extension)) return type;
  }
  return "application/octet-stream";
}

}  // namespace

double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  double total_pages = 0, resident_pages = 0;
  file >> total_pages >> resident_pages;
  return resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

void health_live(const Call& call) { call.responder->reply(json_response(200, {{"status", "ok"}})); }

void health_ready(const Call& call) {
  const bool is_loaded = call.state.model_if_ready() != nullptr;
  const char* status = call.state.stopping ? "stopping" : is_loaded ? "ready" : "loading";
  call.responder->reply(json_response(is_loaded && !call.state.stopping ? 200 : 503, {{"status", status}}));
}

void get_metrics(const Call& call) {
  const std::string text =
      call.state.metrics.text({{"nostos_queue_length", static_cast<double>(call.state.jobs.waiting())},
                               {"nostos_drawing", call.state.jobs.is_drawing() ? 1 : 0},
                               {"nostos_connections", static_cast<double>(call.state.connections())},
                               {"nostos_ready", call.state.model_if_ready() != nullptr && !call.state.stopping ? 1 : 0},
                               {"process_resident_memory_bytes", resident_bytes()}});
  call.responder->reply({.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = text});
}

void get_page(const Call& call) {
  const std::string file = call.request.path == "/" ? "index.html" : call.request.path.substr(1);
  const auto contents = web_file(file);
  if (!contents) throw ApiError(404, "not_found_error", "no such path; docs/api.md lists those that are known");
  const std::string tag = "\"" + fingerprint(*contents) + "\"";
  HttpResponse response{.content_type = std::string(content_type(file)),
                        .headers = {{"ETag", tag},
                                    {"Cache-Control", "no-cache"},
                                    {"X-Content-Type-Options", "nosniff"},
                                    {"Referrer-Policy", "no-referrer"},
                                    {"Content-Security-Policy",
                                     "default-src 'self'; img-src 'self' data: blob:; "
                                     "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"}}};
  if (call.request.header("if-none-match") == tag)
    response.status = 304;
  else
    response.body = *contents;
  call.responder->reply(std::move(response));
}

}  // namespace nostos::server
