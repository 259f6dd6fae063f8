// Owns what all handlers share, and the names of the handlers.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "apps/server/fields.h"
#include "apps/server/http.h"
#include "apps/server/http_text.h"
#include "apps/server/job_service.h"

namespace nostos::server {

/// A model that is ready, as the APIs show it.
struct LoadedModel {
  std::string name;         ///< as lists and pictures show it
  std::string full_name{};  ///< OWNER/NAME of a model of Hugging Face, else the same
  std::string device;
  int64_t ranks = 1;
  OrderLimits limits;

  bool is_called(std::string_view text) const { return text == name || text == full_name; }
};

/// \return the picture of that id as a client might send it, or nothing.
std::optional<Upload> stored_picture(JobStore& store, const std::string& id);

/// Lives as long as the server.
struct ServerState {
  ServerState(JobStore& store, JobService& jobs, Metrics& metrics) : store(store), jobs(jobs), metrics(metrics) {}

  JobStore& store;
  JobService& jobs;
  Metrics& metrics;
  std::string api_key{};                              ///< empty: none wanted
  bool trusts_client_ids = false;                     ///< a proxy in front says who its clients are
  bool lets_all_in = false;                           ///< without a key, from other machines too
  std::vector<Origin> allowed_origins{};              ///< whose pages may use the APIs
  std::function<void(std::function<void()>)> post{};  ///< runs work on a handler thread
  /// Runs work that reads clients' pictures, see ReadingLane::post().
  std::function<bool(std::function<void()>)> post_pictures{};
  /// Runs work that may read LoRAs and reads no pictures.
  std::function<bool(std::function<void()>)> post_loras{};
  std::function<size_t()> connections{};
  std::atomic<bool> stopping{false};

  void set_model(LoadedModel model) {
    model.limits.find_picture = [this](const std::string& id) { return stored_picture(store, id); };
    const std::lock_guard lock(mutex);
    loaded = std::make_shared<const LoadedModel>(std::move(model));
  }
  /// \return the model, or null while it loads.
  std::shared_ptr<const LoadedModel> model_if_ready() const {
    const std::lock_guard lock(mutex);
    return loaded;
  }
  /// \throws ApiError 503 while it loads
  std::shared_ptr<const LoadedModel> model() const;

 private:
  mutable std::mutex mutex;
  std::shared_ptr<const LoadedModel> loaded;
};

using ResponderPtr = std::shared_ptr<Responder>;

/// A request that found its handler.
struct Call {
  ServerState& state;
  const HttpRequest& request;
  std::string id{};  ///< what stands for {id} in the path
  ResponderPtr responder;
};

// Each answers through call.responder, now or later, or throws ApiError.
void post_job(const Call& call);
void list_jobs(const Call& call);
void get_job(const Call& call);
void delete_job(const Call& call);
void get_job_events(const Call& call);
void get_image(const Call& call);
void list_loras(const Call& call);

void openai_generate(const Call& call);
void openai_edit(const Call& call);
void list_models(const Call& call);
void get_model(const Call& call);

void a1111_txt2img(const Call& call);
void a1111_img2img(const Call& call);
void a1111_progress(const Call& call);
void a1111_interrupt(const Call& call);
void a1111_options(const Call& call);
void a1111_set_options(const Call& call);
void a1111_models(const Call& call);
void a1111_samplers(const Call& call);
void a1111_schedulers(const Call& call);
void a1111_upscalers(const Call& call);
void a1111_loras(const Call& call);
void a1111_nothing_listed(const Call& call);
void a1111_embeddings(const Call& call);
void a1111_scripts(const Call& call);
void a1111_cmd_flags(const Call& call);
void a1111_memory(const Call& call);
void a1111_nothing_done(const Call& call);
void a1111_skip(const Call& call);
void a1111_png_info(const Call& call);
void a1111_queue_status(const Call& call);
void a1111_ping(const Call& call);

void health_live(const Call& call);
void health_ready(const Call& call);
void get_metrics(const Call& call);
void get_storage(const Call& call);
void get_page(const Call& call);

/// \return bytes of memory that the process holds.
double resident_bytes();
/// \return a job with a new id for `order`. \param attached its client waits on this connection
Job new_job(const Call& call, DrawingOrder order, bool attached);
/// \return one server-sent event.
std::string sse(std::string_view event, std::string_view data);
HttpResponse json_response(int status, const nlohmann::ordered_json& json);
/// Answers where the request's conditions on the tag say that nothing is to be sent. \param head of the answer
/// \return whether it did \throws ApiError 412
bool answers_precondition(const Call& call, const std::string& tag, const HttpResponse& head);
/// \return the bytes of a picture. \throws ApiError 404
std::string read_image(ServerState& state, const JobImage& image);
/// Submits the order of a client that waits for it: `done` runs on a handler thread once it has ended, and a client
/// that leaves cancels it.
/// \param partial is given each of `partial_images` partial images of a picture, a file in base64, before that
void submit_attached(const Call& call, DrawingOrder order, std::function<void(const Job&)> done,
                     int64_t partial_images = 0, std::function<void(const std::string& file)> partial = {});

}  // namespace nostos::server
