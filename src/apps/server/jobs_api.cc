// Implements the jobs' API: making, watching, cancelling and forgetting jobs, and their pictures.
#include <charconv>
#include <nlohmann/json.hpp>

#include "apps/cli/json_text.h"
#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "apps/server/json_log.h"
#include "apps/server/state.h"
#include "base/error.h"
#include "io/file.h"

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

struct ByteRange {
  uint64_t first = 0, last = 0;
};

/// \return the one range that a Range header asks for within `size` bytes; nothing if it is to be ignored.
/// \throws ApiError 416
std::optional<ByteRange> parse_range(std::string_view header, uint64_t size) {
  if (!header.starts_with("bytes=") || header.find(',') != std::string_view::npos) return std::nullopt;
  header.remove_prefix(6);
  const size_t dash = header.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto number = [](std::string_view text) -> std::optional<uint64_t> {
    uint64_t value = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && stop == text.data() + text.size() ? std::optional(value) : std::nullopt;
  };
  const auto from = number(header.substr(0, dash)), to = number(header.substr(dash + 1));
  const bool is_suffix = dash == 0;
  if ((is_suffix && !to) || (!is_suffix && !from) || (!to && dash + 1 < header.size())) return std::nullopt;
  const ApiError outside(416, "invalid_request_error", fmt::format("the picture has {} bytes", size), "Range");
  if (is_suffix) {
    if (*to == 0 || size == 0) throw outside;
    return ByteRange{size - std::min(*to, size), size - 1};
  }
  if (*from >= size) throw outside;
  if (to && *to < *from) return std::nullopt;
  return ByteRange{*from, std::min(to.value_or(size - 1), size - 1)};
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

}  // namespace

void post_job(const Call& call) {
  const auto model = call.state.model();
  const nlohmann::json body = parse_body(call.request.body);
  Job job = new_job(call, parse_order(body, model->limits, true), false);
  job.idempotency_key = std::string(call.request.header("idempotency-key"));
  const auto is_visible = [](char c) { return c > ' ' && c < 127; };
  if (job.idempotency_key.size() > 200 || !std::ranges::all_of(job.idempotency_key, is_visible))
    refuse_field("Idempotency-Key", "out_of_range", "Idempotency-Key must be 1 to 200 visible ASCII characters");
  if (!job.idempotency_key.empty()) {
    // Another client may have the same key. A key holds no space, so that this is no other client's either.
    job.idempotency_key = job.client + ' ' + job.idempotency_key;
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
  if (call.request.header("if-none-match") == tag) {
    response.status = 304;
    return call.responder->reply(std::move(response));
  }
  if (query_text(call.request, "download") == "true")
    response.headers.emplace_back("Content-Disposition",
                                  fmt::format("attachment; filename=\"{}.{}\"", image->id, name(image->format)));
  response.body = read_image(call.state, *image);
  const std::string_view condition = call.request.header("if-range");
  const uint64_t size = response.body.size();
  if (condition.empty() || condition == tag) {
    if (const auto range = parse_range(call.request.header("range"), size)) {
      response.status = 206;
      response.headers.emplace_back("Content-Range", fmt::format("bytes {}-{}/{}", range->first, range->last, size));
      response.body = response.body.substr(range->first, range->last - range->first + 1);
    }
  }
  call.responder->reply(std::move(response));
}

std::string read_image(ServerState& state, const JobImage& image) {
  try {
    return read_file(state.store.image_file(image), kMaxImageBytes);
  } catch (const Error&) {
    throw no_such("picture: its file was removed");
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
  return {.status = status, .body = cli::json_line(json), .headers = {{"Cache-Control", "no-store"}}};
}

void submit_attached(const Call& call, DrawingOrder order, std::function<void(const Job&)> done, int64_t partial_images,
                     std::function<void(const std::string&)> partial) {
  const Job job = call.state.jobs.submit(new_job(call, std::move(order), true));
  ServerState& state = call.state;
  const auto tell = [&state, id = job.id, path = call.request.path, out = call.responder, done = std::move(done),
                     partial = std::move(partial)](const JobEvent& event) {
    if (event.name == "partial") partial(event.data);
    if (event.name != "done") return;
    state.post([&state, id, path, done, out] {
      try {
        const auto ended = state.store.find(id);
        require(ended.has_value(), ErrorKind::internal, "the job was forgotten before its pictures were sent");
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
