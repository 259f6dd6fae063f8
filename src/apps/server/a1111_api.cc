// Implements what clients of A1111's API commonly call.
#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "apps/server/state.h"
#include "io/json_text.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxSaidBack = size_t{4} << 20;  // of a body with pictures that the answer has again

/// \return what A1111 says about pictures, and about how they were drawn. \param batch_size as the request has it
ordered_json info_json(const Job& job, const std::string& model, int64_t batch_size) {
  const GenerationRequest& request = job.order.record.request;
  ordered_json prompts = ordered_json::array(), negatives = ordered_json::array(), seeds = ordered_json::array(),
               texts = ordered_json::array();
  for (const JobImage& image : job.images) {
    prompts.push_back(request.prompt);
    negatives.push_back(request.negative_prompt);
    seeds.push_back(image.seed);
    DrawingRecord record = job.order.record;
    record.request.seed = image.seed;
    texts.push_back(webui_parameters(record));
  }
  ordered_json info{{"prompt", request.prompt},
                    {"all_prompts", prompts},
                    {"negative_prompt", request.negative_prompt},
                    {"all_negative_prompts", negatives},
                    {"seed", request.seed},
                    {"all_seeds", seeds},
                    {"width", *request.width},
                    {"height", *request.height},
                    {"sampler_name", "Euler"},
                    {"cfg_scale", cfg_scale_of(*request.guidance_scale, job.order.record.guidance)},
                    {"steps", *request.num_inference_steps},
                    {"batch_size", batch_size},
                    {"sd_model_name", model},
                    {"infotexts", texts},
                    {"index_of_first_image", 0}};
  if (request.strength) info["denoising_strength"] = *request.strength;
  info.update(prompts_json(job));
  return info;
}

/// Has the order drawn for a client that waits for the answer. \param body as the answer says it back
void draw(const Call& call, const std::shared_ptr<const LoadedModel>& model, DrawingOrder order,
          const nlohmann::json& body) {
  const Fields fields(body, Fields::Reading::lenient);
  const bool send_images = fields.boolean("send_images").value_or(true);
  const int64_t batch_size = fields.integer("batch_size", 1, kMaxPictures).value_or(1);
  ServerState& state = call.state;
  submit_attached(call, std::move(order),
                  [&state, model, body, send_images, batch_size, out = call.responder](const Job& job) {
                    try {
                      if (job.status == JobStatus::failed && state.store.trouble())
                        throw insufficient_storage(job.error);
                      if (job.status == JobStatus::failed) throw ApiError(500, "server_error", job.error);
                      if (job.status == JobStatus::cancelled && state.stopping)
                        throw overloaded("stopping", "the server is shutting down", 10);
                      // An interrupted one has no pictures, and is no error there.
                      ordered_json images = ordered_json::array();
                      if (send_images)
                        for (const JobImage& image : job.images) images.push_back(to_base64(read_image(state, image)));
                      out->reply(json_response(200, {{"images", images},
                                                     {"parameters", body},
                                                     {"info", json_line(info_json(job, model->name, batch_size))}}));
                    } catch (const ApiError& error) {
                      out->reply(a1111_error(error));
                    }
                  });
}

/// Has a body that is said back say what is drawn, and hold no picture that the drawing follows: it is kept as long as
/// the job waits.
void say_what_is_drawn(const DrawingOrder& order, nlohmann::json& body) {
  for (const auto& [field, asked, drawn] : order.changes)
    body[field] = field == "steps" ? nlohmann::json(static_cast<int64_t>(drawn)) : nlohmann::json(drawn);
  if (order.control != nullptr) body["alwayson_scripts"] = nullptr;
}

}  // namespace

void a1111_txt2img(const Call& call) {
  const auto model = call.state.model();
  nlohmann::json body = parse_body(call.request.body);
  DrawingOrder order = parse_a1111_order(body, model->limits);
  say_what_is_drawn(order, body);
  draw(call, model, std::move(order), body);
}

void a1111_img2img(const Call& call) {
  const auto model = call.state.model();
  nlohmann::json body = parse_body(call.request.body);
  DrawingOrder order = parse_a1111_image_order(body, model->limits);
  // What is said back is kept as long as the job waits.
  const bool says_back = Fields(body, Fields::Reading::lenient).boolean("include_init_images").value_or(false);
  if (says_back && call.request.body.size() > kMaxSaidBack)
    refuse_field("include_init_images", "too_large",
                 "include_init_images is true, but the body has {} bytes: with it, at most {}",
                 call.request.body.size(), kMaxSaidBack);
  if (!says_back) body["init_images"] = body["mask"] = nullptr;
  say_what_is_drawn(order, body);
  draw(call, model, std::move(order), body);
}

void a1111_progress(const Call& call) {
  const auto job = call.state.jobs.describe_running();
  const auto skip = call.request.query.find("skip_current_image");
  const bool wants_picture = skip == call.request.query.end() || skip->second != "true";
  ordered_json state{{"skipped", false},     {"interrupted", false}, {"job", ""},          {"job_count", 0},
                     {"job_timestamp", "0"}, {"job_no", 0},          {"sampling_step", 0}, {"sampling_steps", 0}};
  double done = 0, eta_s = 0;
  if (job && !(*job)["progress"].is_null()) {
    const ordered_json& progress = (*job)["progress"];
    const auto step = progress["step"].get<double>(), steps = progress["steps"].get<double>();
    done = progress["stage"] == "decode" ? 0.99 : step / std::max(steps, 1.0) * 0.98;
    if (progress["eta_s"].is_number()) eta_s = progress["eta_s"].get<double>();
    state.update({{"job", (*job)["id"]},
                  {"job_count", progress["pictures"]},
                  {"sampling_step", progress["step"]},
                  {"sampling_steps", progress["steps"]}});
  }
  ordered_json picture;
  if (const auto preview = wants_picture ? call.state.jobs.preview_of_running() : nullptr) {
    const std::vector<uint8_t> file = encode_image(*preview, ImageFormat::png);
    picture = to_base64({reinterpret_cast<const char*>(file.data()), file.size()});
  }
  call.responder->reply(json_response(200, {{"progress", done},
                                            {"eta_relative", eta_s},
                                            {"state", state},
                                            {"current_image", picture},
                                            {"textinfo", nullptr}}));
}

void a1111_interrupt(const Call& call) {
  call.state.jobs.interrupt();
  call.responder->reply(json_response(200, ordered_json::object()));
}

void a1111_options(const Call& call) {
  call.responder->reply(
      json_response(200, {{"sd_model_checkpoint", call.state.model()->name}, {"samples_format", "png"}}));
}

void a1111_set_options(const Call& call) {
  const auto model = call.state.model();
  const nlohmann::json body = parse_body(call.request.body);
  const auto wanted = Fields(body).string("sd_model_checkpoint", 1000);
  if (wanted && !model->is_called(*wanted))
    refuse_field("sd_model_checkpoint", "model_not_found", "this server has the model {} alone", model->name);
  call.responder->reply(json_response(200, ordered_json::object()));
}

}  // namespace nostos::server
