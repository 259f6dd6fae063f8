// Implements OpenAI's Images API and its list of models.
#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "apps/server/state.h"
#include "io/json_text.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;

/// \param name one of the model's
ordered_json model_json(const LoadedModel& model, const std::string& name) {
  const ModelLimits& limits = model.limits.model;
  return {{"id", name},
          {"object", "model"},
          {"created", 0},
          {"owned_by", "nostos"},
          {"nostos",
           {{"version", NOSTOS_VERSION},
            {"precision", model.limits.precision},
            {"device", model.device},
            {"ranks", model.ranks},
            {"size_multiple", limits.size_multiple},
            {"token_multiple", limits.token_multiple},
            {"max_side", limits.max_side},
            {"max_pixels", model.limits.max_pixels},
            {"max_sequence_length", limits.max_sequence_length},
            {"max_n", kMaxPictures},
            {"has_guidance", limits.guidance != GuidanceForm::none},
            {"client_defaults", server::name(model.limits.client_defaults)},
            {"image_to_image", true},
            {"default_strength", limits.default_strength},
            {"default_mask_strength", limits.default_mask_strength},
            {"control", limits.control == ControlSupport::loaded},
            {"control_sees_mask", limits.control == ControlSupport::loaded && limits.control_sees_mask},
            {"max_reference_images", limits.max_reference_images},
            {"reference_pixels", limits.reference_pixels},
            {"default_width", limits.default_width},
            {"default_height", limits.default_height},
            {"default_num_inference_steps", limits.default_steps},
            {"default_guidance_scale", limits.default_guidance_scale}}}};
}

/// \return why an ended job has no pictures.
ApiError ended_badly(const ServerState& state, const Job& job) {
  if (job.status == JobStatus::cancelled && state.stopping)
    return overloaded("stopping", "the server is shutting down", 10);
  if (job.status == JobStatus::cancelled) return {409, "conflict_error", "the job was cancelled", {}, "cancelled"};
  if (state.store.trouble()) return insufficient_storage(job.error);
  return {500, "server_error", job.error};
}

/// What OpenAI's answers say of all pictures alike.
ordered_json common_json(const DrawingOrder& order) {
  const GenerationRequest& request = order.record.request;
  return {{"background", "opaque"},
          {"output_format", name(order.format)},
          {"quality", "auto"},
          {"size", fmt::format("{}x{}", *request.width, *request.height)}};
}

void answer_whole(ServerState& state, const Job& job, const std::string& url_base, const ResponderPtr& out) {
  if (job.status != JobStatus::completed) return out->reply(openai_error(ended_badly(state, job)));
  ordered_json data = ordered_json::array();
  for (const JobImage& image : job.images) {
    ordered_json entry;
    if (url_base.empty())
      entry["b64_json"] = to_base64(read_image(state, image));
    else
      entry["url"] = url_base + "/v1/images/" + image.id;
    entry.update({{"seed", image.seed}, {"width", image.width}, {"height", image.height}, {"id", image.id}});
    data.push_back(std::move(entry));
  }
  ordered_json answer{{"created", static_cast<int64_t>(job.created_at)}};
  answer.update(common_json(job.order));
  answer.update(prompts_json(job));
  answer["data"] = std::move(data);
  out->reply(json_response(200, answer));
}

/// \param kind of the stream's events: image_generation or image_edit
void answer_stream(ServerState& state, const Job& job, const std::string& kind, const ResponderPtr& out) {
  if (job.status != JobStatus::completed) {
    out->write(sse("error", openai_error(ended_badly(state, job)).body));
    return out->finish();
  }
  for (const JobImage& image : job.images) {
    ordered_json event{{"type", kind + ".completed"},
                       {"b64_json", to_base64(read_image(state, image))},
                       {"created_at", static_cast<int64_t>(job.created_at)},
                       {"seed", image.seed},
                       {"id", image.id}};
    event.update(common_json(job.order));
    event.update(prompts_json(job));
    out->write(sse(kind + ".completed", json_line(event)));
  }
  out->finish();
}

/// Sends partial images; each picture's are numbered from 0.
class PartialImages {
 public:
  PartialImages(const DrawingOrder& order, const std::string& kind, int64_t count, ResponderPtr out)
      : common_(common_json(order)), type_(kind + ".partial_image"), count_(count), out_(std::move(out)) {}

  void send(const std::string& file) {
    ordered_json event{{"type", type_},
                       {"b64_json", file},
                       {"created_at", static_cast<int64_t>(unix_now())},
                       {"partial_image_index", sent_++ % count_}};
    event.update(common_);
    out_->write(sse(type_, json_line(event)));
  }

 private:
  ordered_json common_;
  std::string type_;
  int64_t count_, sent_ = 0;
  ResponderPtr out_;
};

/// How a client wants its answer.
struct AnswerForm {
  bool is_url = false;
  bool stream = false;
  int64_t partial_images = 0;
};

AnswerForm answer_form(const Fields& fields) {
  const std::string format = fields.string("response_format", 100).value_or("b64_json");
  if (format != "b64_json" && format != "url")
    refuse_field("response_format", "out_of_range", "response_format is unknown; use b64_json or url");
  return {.is_url = format == "url",
          .stream = fields.boolean("stream").value_or(false),
          .partial_images = fields.integer("partial_images", 0, 3).value_or(0)};
}

/// Has the order drawn for a client that waits for the answer. \param kind of a stream's events
void draw_attached(const Call& call, DrawingOrder order, const AnswerForm& form, const std::string& kind) {
  ServerState& state = call.state;
  const ResponderPtr out = call.responder;
  if (!form.stream) {
    std::string url_base;
    if (form.is_url) {
      url_base = link_base(call.request);
      if (url_base.empty())
        refuse_field("response_format", "missing", "response_format url wants a request with a Host header");
    }
    return submit_attached(call, std::move(order), [&state, url_base, out](const Job& job) {
      try {
        answer_whole(state, job, url_base, out);
      } catch (const ApiError& error) {
        out->reply(openai_error(error));
      }
    });
  }
  // Where steps are few, fewer partial images fit between them.
  const int64_t partial_count = std::min(form.partial_images, drawn_steps(order.record.request) - 1);
  const auto partials = std::make_shared<PartialImages>(order, kind, partial_count, out);
  const auto done = [&state, kind, out](const Job& job) {
    try {
      answer_stream(state, job, kind, out);
    } catch (const ApiError& error) {
      out->write(sse("error", openai_error(error).body));
      out->finish();
    }
  };
  submit_attached(call, std::move(order), done, partial_count,
                  [partials](const std::string& file) { partials->send(file); });
  out->start_stream(
      {.content_type = "text/event-stream", .headers = {{"Cache-Control", "no-store"}, {"X-Accel-Buffering", "no"}}});
}

}  // namespace

std::shared_ptr<const LoadedModel> ServerState::model() const {
  if (stopping) throw overloaded("stopping", "the server is shutting down", 10);
  auto found = model_if_ready();
  if (!found) throw overloaded("loading", "the model is loading", 5);
  return found;
}

void openai_generate(const Call& call) {
  const auto model = call.state.model();
  const nlohmann::json body = parse_body(call.request.body);
  const AnswerForm form = answer_form(Fields(body));
  draw_attached(call, parse_order(body, model->limits, false), form, "image_generation");
}

void openai_edit(const Call& call) {
  const auto model = call.state.model();
  const std::vector<FormPart> parts = parse_multipart(call.request.header("content-type"), call.request.body);
  FormOrder form = parse_form_order(parts, model->limits);
  const AnswerForm answer = answer_form(Fields(form.fields, Fields::Reading::lenient));
  draw_attached(call, std::move(form.order), answer, "image_edit");
}

void list_models(const Call& call) {
  const auto model = call.state.model();
  ordered_json data = ordered_json::array({model_json(*model, model->name)});
  if (model->full_name != model->name) data.push_back(model_json(*model, model->full_name));
  call.responder->reply(json_response(200, {{"object", "list"}, {"data", std::move(data)}}));
}

void get_model(const Call& call) {
  const auto model = call.state.model();
  if (!model->is_called(call.id))
    throw ApiError(404, "not_found_error", "no such model; this server has " + model->name, "model", "model_not_found");
  call.responder->reply(json_response(200, model_json(*model, call.id)));
}

}  // namespace nostos::server
