// Implements the server's start and end.
#include "apps/server/server.h"

#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/server/housekeeper.h"
#include "apps/server/json_log.h"
#include "apps/server/reading_lane.h"
#include "apps/server/router.h"
#include "base/error.h"
#include "io/file.h"

namespace nostos::server {
namespace {

constexpr std::chrono::milliseconds kAnswerPatience{5000};
constexpr size_t kMaxKeyBytes = 4096;
constexpr size_t kMostWithPictures = 16;
constexpr size_t kMostWithLoras = 256;  // most of them wait for nothing: their files were read before

sigset_t end_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

void require_safe_address(const ServerOptions& options) {
  require(is_loopback(options.host) || !options.api_key.empty() || options.allow_remote_without_key,
          ErrorKind::invalid_input,
          "--host {} lets other machines in: give --api-key-file, or say --allow-remote-without-key", options.host);
}

void log_outcome(Metrics& metrics, const HttpRequest& request, const HttpOutcome& outcome) {
  const std::string_view pattern = request.path.empty() ? "unreadable" : route_pattern(request);
  metrics.add("nostos_http_requests_total", fmt::format("route=\"{}\",status=\"{}\"", pattern, outcome.status));
  metrics.observe("nostos_http_request_seconds", fmt::format("route=\"{}\"", pattern), outcome.ms / 1000);
  // Probes come every few seconds and say nothing.
  const bool is_probe = pattern.starts_with("/health/") || pattern == "/metrics";
  log_json(is_probe ? LogLevel::debug : LogLevel::info, "request",
           {{"request", request.id},
            {"client", request.peer},
            {"method", request.method},
            {"path", request.path},
            {"status", outcome.status},
            {"ms", outcome.ms},
            {"bytes", outcome.body_bytes},
            {"disconnected", outcome.disconnected}});
}

}  // namespace

std::string read_api_key(const std::filesystem::path& file) {
  std::string key = read_file(file, kMaxKeyBytes);
  const char* const kWhite = " \t\r\n";
  const size_t first = key.find_first_not_of(kWhite);
  require(first != std::string::npos, ErrorKind::invalid_input, "{}: the file of the API key is empty", file.string());
  return key.substr(first, key.find_last_not_of(kWhite) - first + 1);
}

struct Server::Impl {
  explicit Impl(const ServerOptions& given)
      : options(given),
        store((require_safe_address(given), given.data_dir), given.keep),
        jobs(store, metrics, given.queue_limit),
        state(store, jobs, metrics),
        http(given.host, given.port,
             {.handle = [this](HttpRequest&& request,
                               const ResponderPtr& responder) { route(state, std::move(request), responder); },
              .body_limit =
                  [this](const HttpRequest& request) { return body_limit(state, request, HttpLimits{}.body_bytes); },
              .refuse = [this](const HttpRequest& request, int status,
                               const std::string& message) { return refuse(state, request, status, message); },
              .finished = [this](const HttpRequest& request,
                                 const HttpOutcome& outcome) { log_outcome(metrics, request, outcome); }}) {
    state.api_key = options.api_key;
    state.trusts_client_ids = options.trusts_client_ids;
    state.lets_all_in = options.allow_remote_without_key;
    state.allowed_origins = options.allowed_origins;
    state.post = [this](std::function<void()> work) { http.post(std::move(work)); };
    state.post_pictures = [this](std::function<void()> work) { return pictures.post(std::move(work)); };
    state.post_loras = [this](std::function<void()> work) { return loras.post(std::move(work)); };
    state.connections = [this] { return http.connections(); };
  }

  /// Waits for the signal, then brings run() to its end.
  void await_signal() {
    const sigset_t signals = end_signals();
    int signal = 0;
    sigwait(&signals, &signal);
    if (finished) return;
    log_json(LogLevel::info, "shutting down", {{"signal", strsignal(signal)}, {"waiting", jobs.waiting()}});
    state.stopping = true;
    std::thread impatient([signals] {
      int second = 0;
      sigwait(&signals, &second);
      std::_Exit(130);
    });
    impatient.detach();
    jobs.stop(options.shutdown_grace);
  }

  ServerOptions options;
  JobStore store;
  Metrics metrics;
  JobService jobs;
  ServerState state;
  HttpServer http;
  ReadingLane pictures{kMostWithPictures}, loras{kMostWithLoras};
  std::atomic<bool> finished{false};
  std::thread signal_thread;
  Housekeeper housekeeper{store, jobs, metrics};
};

void hold_end_signals() {
  const sigset_t signals = end_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

Server::Server(const ServerOptions& options) {
  std::signal(SIGPIPE, SIG_IGN);
  impl_ = std::make_unique<Impl>(options);
  impl_->signal_thread = std::thread([this] { impl_->await_signal(); });
  impl_->http.start();
  log_json(LogLevel::info, "listening",
           {{"host", options.host}, {"port", impl_->http.port()}, {"data_dir", options.data_dir.string()}});
}

Server::~Server() {
  if (impl_->signal_thread.joinable()) {
    impl_->finished = true;
    pthread_kill(impl_->signal_thread.native_handle(), SIGTERM);
    impl_->signal_thread.join();
  }
  impl_->http.stop(std::chrono::milliseconds(0));
  impl_->jobs.unwatch_all();
}

void Server::run(LoadedModel model, const EngineCalls& engine) {
  const std::string name = model.name;
  impl_->state.set_model(std::move(model));
  log_json(LogLevel::info, "ready", {{"model", name}, {"waiting", impl_->jobs.waiting()}});
  impl_->jobs.run(engine);
  // Event streams of jobs that stay on disk have nothing more to say: their clients come again.
  impl_->signal_thread.join();
  impl_->http.stop(kAnswerPatience);
  log_json(LogLevel::info, "stopped", {{"waiting", impl_->jobs.waiting()}});
}

}  // namespace nostos::server
