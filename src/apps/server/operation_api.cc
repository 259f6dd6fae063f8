// Implements what operators and browsers ask for: health, metrics, and the page.
#include <unistd.h>

#include <array>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "apps/server/state.h"
#include "apps/server/web_files.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;

/// \return how far the server can take work: "stopping", "loading", "unwritable", "degraded" for fewer devices than it
/// had, or "ready".
std::string_view readiness(const ServerState& state) {
  if (state.stopping) return "stopping";
  if (!state.model_if_ready()) return "loading";
  if (state.store.trouble()) return "unwritable";
  return state.jobs.places().lost > 0 ? "degraded" : "ready";
}

bool takes_work(std::string_view readiness) { return readiness == "ready" || readiness == "degraded"; }

/// \return the bytes that are free, or nothing where the system does not say.
std::optional<uint64_t> known(uint64_t free_bytes) {
  return free_bytes == std::numeric_limits<uint64_t>::max() ? std::nullopt : std::optional(free_bytes);
}

std::string_view content_type(std::string_view file) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kTypes{
      {{".html", "text/html; charset=utf-8"},
       {".js", "text/javascript; charset=utf-8"},
       {".css", "text/css; charset=utf-8"},
       {".svg", "image/svg+xml"},
       {".json", "application/json"},
       {".png", "image/png"}}};
  for (const auto& [extension, type] : kTypes) {
    if (file.ends_with(extension)) return type;
  }
  return "application/octet-stream";
}

/// Answers programs that ask "/" what draws here, as Draw Things does.
void reply_program(const Call& call) {
  const auto model = call.state.model_if_ready();
  HttpResponse response =
      json_response(200, {{"model", model ? ordered_json(model->name) : ordered_json()}, {"upscaler", nullptr}});
  response.headers.emplace_back("Vary", "Accept");
  call.responder->reply(std::move(response));
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
  const auto trouble = call.state.store.trouble();
  const std::string_view status = readiness(call.state);
  ordered_json json{{"status", status}};
  if (status == "unwritable" && trouble) json["reason"] = *trouble;
  if (status == "degraded") json["lost_places"] = call.state.jobs.places().lost;
  call.responder->reply(json_response(takes_work(status) ? 200 : 503, json));
}

void get_metrics(const Call& call) {
  const JobStore& store = call.state.store;
  const StorageUse use = store.use();
  const PlaceUse places = call.state.jobs.places();
  std::map<std::string, double> gauges{{"nostos_queue_length", static_cast<double>(call.state.jobs.waiting())},
                                       {"nostos_drawing", call.state.jobs.is_drawing() ? 1 : 0},
                                       {"nostos_connections", static_cast<double>(call.state.connections())},
                                       {"nostos_ready", takes_work(readiness(call.state)) ? 1 : 0},
                                       {"nostos_places", places.places},
                                       {"nostos_places_busy", places.busy},
                                       {"nostos_places_lost", places.lost},
                                       {"nostos_lanes", places.lanes},
                                       {"nostos_storage_pictures", static_cast<double>(use.pictures)},
                                       {"nostos_storage_bytes", static_cast<double>(use.bytes)},
                                       {"nostos_storage_writable", store.trouble() ? 0 : 1},
                                       {"process_resident_memory_bytes", resident_bytes()}};
  if (const auto free = known(store.free_bytes())) gauges["nostos_storage_free_bytes"] = static_cast<double>(*free);
  const std::string text = call.state.metrics.text(gauges);
  call.responder->reply({.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = text});
}

void get_storage(const Call& call) {
  const JobStore& store = call.state.store;
  const StorageUse use = store.use();
  const StorageLimits& limits = store.limits();
  const auto limit = [](auto value) { return value > 0 ? ordered_json(value) : ordered_json(); };
  const auto free = known(store.free_bytes());
  const auto trouble = store.trouble();
  call.responder->reply(json_response(
      200,
      {{"object", "storage"},
       {"pictures", use.pictures},
       {"bytes", use.bytes},
       {"free_bytes", free ? ordered_json(*free) : ordered_json()},
       {"keep", {{"days", limit(limits.days)}, {"pictures", limit(limits.pictures)}, {"bytes", limit(limits.bytes)}}},
       {"writable", !trouble},
       {"reason", trouble ? ordered_json(*trouble) : ordered_json()}}));
}

void get_page(const Call& call) {
  // Browsers name text/html; programs ask for JSON, or for anything.
  if (call.request.path == "/" && call.request.header("accept").find("text/html") == std::string_view::npos)
    return reply_program(call);
  const std::string file = call.request.path == "/" ? "index.html" : call.request.path.substr(1);
  const auto contents = web_file(file);
  if (!contents) throw ApiError(404, "not_found_error", "no such path; docs/api.md lists those that are known");
  const std::string tag = "\"" + fingerprint(*contents) + "\"";
  HttpResponse response{.content_type = std::string(content_type(file)),
                        .headers = {{"ETag", tag},
                                    {"Cache-Control", "no-cache"},
                                    {"Vary", "Accept"},
                                    {"X-Content-Type-Options", "nosniff"},
                                    {"Referrer-Policy", "no-referrer"},
                                    {"Content-Security-Policy",
                                     "default-src 'self'; img-src 'self' data: blob:; "
                                     "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"}}};
  if (answers_precondition(call, tag, response)) return;
  response.body = *contents;
  call.responder->reply(std::move(response));
}

}  // namespace nostos::server
