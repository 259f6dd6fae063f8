// Implements the jobs' API: making, watching, cancelling and forgetting jobs, and their pictures.
#include <charconv>
#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "apps/server/json_log.h"
#include "apps/server/state.h"
#include "base/error.h"
#include "io/file.h"
#include "io/json_text.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxClientBytes = 64;
constexpr size_t kMaxImageBytes = size_t{1} << 30;

ApiError no_such(const char* what) { return {404, "not_found_error", std::string("no such ") + what}; }

/// \return the query's integer, or `fallback`. \throws ApiError 400
int64_t query_integer(const HttpRequest& request, const std::string& name, int64_t fallback, int64_t min, int64_t max) {
  const auto found = request.query.find(name);
  if (found == request.query.end()) return fallback;
  int64_t number = 0;
  const char* const end = found->second.data() + found->second.size();
  const auto [stop, error] = std::from_chars(found->second.data(), end, number);
  if (error != std::errc() || stop != end || number < min || number > max)
    refuse_field(name, "out_of_range", "{} is not an integer from {} to {}", name, min, max);
  return number;
}

std::string query_text(const HttpRequest& request, const std::string& name) {
  const auto found = request.query.find(name);
  return found == request.query.end() ? std::string() : found->second;
}

/// \return whose turn a request takes: its peer's, or that of whom a trusted proxy names.
std::string client_of(const Call& call) {
  const std::string_view given = call.state.trusts_client_ids ? call.request.header("x-client-id") : std::string_view();
  return given.empty() ? call.request.peer : std::string(given.substr(0, kMaxClientBytes));
}

const char* content_type(ImageFormat format) {
  switch (format) {
    case ImageFormat::png:
      return "image/png";
    case ImageFormat::jpeg:
      return "image/jpeg";
    case ImageFormat::webp:
      break;
  }
  return "image/webp";
}

std::shared_ptr<const BodyFile> open_image(const ServerState& state, const JobImage& image) {
  try {
    return std::make_shared<const BodyFile>(state.store.image_file(image));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::invalid_input) throw;
    throw no_such("picture: its file was removed");
  }
}

HttpResponse unsatisfiable(uint64_t size) {
  HttpResponse response =
      openai_error({416, "invalid_request_error", fmt::format("the picture has {} bytes", size), "Range"});
  response.headers.emplace_back("Content-Range", fmt::format("bytes */{}", size));
  return response;
}

}  // namespace

void post_job(const Call& call) {
  const auto model = call.state.model();
  nlohmann::json body = parse_body(call.request.body);
  Job job = new_job(call, parse_order(body, model->limits, true), false);
  job.idempotency_key = std::string(call.request.header("idempotency-key"));
  const auto is_visible = [](char c) { return c > ' ' && c < 127; };
  if (job.idempotency_key.size() > 200 || !std::ranges::all_of(job.idempotency_key, is_visible))
    refuse_field("Idempotency-Key", "out_of_range", "Idempotency-Key must be 1 to 200 visible ASCII characters");
  if (!job.idempotency_key.empty()) {
    // Another client may have the same key. A key holds no space, so that this is no other client's either.
    job.idempotency_key = job.client + ' ' + job.idempotency_key;
    // Hashes stand for pictures, which are kept no longer than they are needed.
    const ordered_json known = job_json(job, 0, std::nullopt)["request"];
    if (!job.order.references.empty()) body["image"] = known["image"];
    if (job.order.mask != nullptr) body["mask"] = known["mask"];
    if (job.order.control != nullptr) body["control"] = known["control"];
    job.body = body.dump();
  }
  const Job stored = call.state.jobs.submit(std::move(job));
  HttpResponse response = json_response(202, call.state.jobs.describe(stored));
  response.headers.emplace_back("Location", "/v1/jobs/" + stored.id);
  call.responder->reply(std::move(response));
}

void list_jobs(const Call& call) {
  const int64_t limit = query_integer(call.request, "limit", 50, 1, 200);
  std::optional<JobStatus> status;
  if (const std::string text = query_text(call.request, "status"); !text.empty()) {
    status = parse_status(text);
    if (!status)
      refuse_field("status", "out_of_range", "status is unknown; use queued, running, completed, failed or cancelled");
  }
  // One more than asked for tells whether there are more.
  std::vector<Job> jobs = call.state.store.list(limit + 1, query_text(call.request, "before"), status);
  const bool has_more = static_cast<int64_t>(jobs.size()) > limit;
  if (has_more) jobs.pop_back();
  ordered_json data = ordered_json::array();
  for (const Job& job : jobs) data.push_back(call.state.jobs.describe(job));
  call.responder->reply(json_response(200, {{"object", "list"}, {"data", data}, {"has_more", has_more}}));
}

void get_job(const Call& call) {
  const auto json = call.state.jobs.describe(call.id);
  if (!json) throw no_such("job");
  call.responder->reply(json_response(200, *json));
}

void delete_job(const Call& call) {
  if (query_text(call.request, "forget") == "true") {
    if (!call.state.jobs.forget(call.id)) throw no_such("job");
    return call.responder->reply(json_response(200, {{"id", call.id}, {"object", "job"}, {"deleted", true}}));
  }
  const auto job = call.state.jobs.cancel(call.id);
  if (!job) throw no_such("job");
  call.responder->reply(json_response(has_ended(job->status) ? 200 : 202, call.state.jobs.describe(*job)));
}

void get_job_events(const Call& call) {
  if (!call.state.store.find(call.id)) throw no_such("job");
  call.responder->start_stream(
      {.content_type = "text/event-stream", .headers = {{"Cache-Control", "no-store"}, {"X-Accel-Buffering", "no"}}});
  const ResponderPtr out = call.responder;
  const auto tell = [out](const JobEvent& event) {
    out->write(sse(event.name, event.data));
    if (event.name == "done") out->finish();
  };
  const uint64_t watch = call.state.jobs.watch(call.id, {.tell = tell, .previews = true});
  if (watch != 0) out->on_disconnect([&state = call.state, id = call.id, watch] { state.jobs.unwatch(id, watch); });
}

void get_image(const Call& call) {
  const auto image = call.state.store.find_image(call.id);
  if (!image) throw no_such("picture");
  const std::string tag = "\"" + image->id + "\"";
  HttpResponse response{.content_type = content_type(image->format),
                        .headers = {{"ETag", tag},
                                    {"Cache-Control", "private, max-age=31536000, immutable"},
                                    {"Accept-Ranges", "bytes"},
                                    {"X-Content-Type-Options", "nosniff"}}};
  if (answers_precondition(call, tag, response)) return;
  if (query_text(call.request, "download") == "true")
    response.headers.emplace_back("Content-Disposition",
                                  fmt::format("attachment; filename=\"{}.{}\"", image->id, name(image->format)));
  const auto file = open_image(call.state, *image);
  const uint64_t size = file->size();
  response.file = FilePart{file, 0, size};
  if (const auto range = asked_range(call.request, tag, size)) {
    if (range->count == 0) return call.responder->reply(unsatisfiable(size));
    response.status = 206;
    response.headers.emplace_back("Content-Range",
                                  fmt::format("bytes {}-{}/{}", range->first, range->first + range->count - 1, size));
    response.file = FilePart{file, range->first, range->count};
  }
  call.responder->reply(std::move(response));
}

bool answers_precondition(const Call& call, const std::string& tag, const HttpResponse& head) {
  const Precondition found = precondition(call.request, tag);
  if (found == Precondition::met) return false;
  if (found == Precondition::failed)
    throw ApiError(412, "invalid_request_error", "If-Match names another tag than " + tag, "If-Match");
  HttpResponse response = head;
  response.status = 304;
  call.responder->reply(std::move(response));
  return true;
}

std::string read_image(ServerState& state, const JobImage& image) {
  try {
    return read_file(state.store.image_file(image), kMaxImageBytes);
  } catch (const Error&) {
    throw no_such("picture: its file was removed");
  }
}

std::optional<Upload> stored_picture(JobStore& store, const std::string& id) {
  const auto image = store.find_image(id);
  if (!image) return std::nullopt;
  try {
    const std::filesystem::path file = store.image_file(*image);
    return Upload{.file = file.filename().string(),
                  .bytes = std::make_shared<const std::string>(read_file(file, kMaxImageBytes))};
  } catch (const Error&) {
    return std::nullopt;  // removed meanwhile
  }
}

Job new_job(const Call& call, DrawingOrder order, bool attached) {
  Job job;
  job.id = random_id("job_");
  job.order = std::move(order);
  job.client = client_of(call);
  job.attached = attached;
  job.created_at = unix_now();
  return job;
}

std::string sse(std::string_view event, std::string_view data) {
  return fmt::format("event: {}\ndata: {}\n\n", event, data);
}

HttpResponse json_response(int status, const ordered_json& json) {
  return {.status = status, .body = json_line(json), .headers = {{"Cache-Control", "no-store"}}};
}

void submit_attached(const Call& call, DrawingOrder order, std::function<void(const Job&)> done, int64_t partial_images,
                     std::function<void(const std::string&)> partial) {
  ServerState& state = call.state;
  Job asked = new_job(call, std::move(order), true);
  // Not forgotten, however little may be kept, before its pictures are sent.
  const std::shared_ptr<void> held = state.store.hold(asked.id);
  const std::vector<ChangedSetting> changes = asked.order.changes;
  for (const ChangedSetting& change : changes) log_json(LogLevel::warning, change_warning(change), {{"job", asked.id}});
  const Job job = state.jobs.submit(std::move(asked));
  const auto tell = [&state, held, changes, id = job.id, path = call.request.path, out = call.responder,
                     done = std::move(done), partial = std::move(partial)](const JobEvent& event) {
    if (event.name == "partial") partial(event.data);
    if (event.name != "done") return;
    state.post([&state, held, changes, id, path, done, out] {
      try {
        auto ended = state.store.find(id);
        require(ended.has_value(), ErrorKind::internal, "the job was forgotten before its pictures were sent");
        ended->order.changes = changes;
        done(*ended);
      } catch (const std::exception& error) {
        // The client would wait for ever. Of a stream that has begun there is only the end left to say.
        log_json(LogLevel::error, "answer failed", {{"job", id}, {"error", error.what()}});
        out->reply(error_answer(path, ApiError(500, "server_error", error.what())));
        out->finish();
      }
    });
  };
  state.jobs.watch(job.id, {.tell = tell, .partial_images = partial_images});
  call.responder->on_disconnect([&state, id = job.id] { state.jobs.cancel(id); });
}

}  // namespace nostos::server
