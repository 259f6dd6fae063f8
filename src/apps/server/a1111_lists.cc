// Implements what A1111's clients ask for beside drawing: lists, most of them empty here, memory, and a picture's text.
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "apps/server/png_info.h"
#include "apps/server/state.h"
#include "base/error.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;

void reply(const Call& call, const ordered_json& json) { call.responder->reply(json_response(200, json)); }

/// \return the file that a client sent in base64, with or without "data:image/png;base64," before it.
std::string sent_file(const nlohmann::json& body) {
  const auto image = Fields(body).string("image", std::numeric_limits<size_t>::max());
  if (!image) refuse_field("image", "missing", "image is missing; send a PNG in base64");
  std::string_view text = *image;
  if (text.starts_with("data:")) text.remove_prefix(std::min(text.find(','), text.size() - 1) + 1);
  std::string file = from_base64(text, Base64Form::with_spaces);
  if (file.empty()) refuse_field("image", "invalid_type", "image is no base64; send a PNG in base64");
  return file;
}

}  // namespace

void a1111_models(const Call& call) {
  const auto model = call.state.model();
  reply(call, ordered_json::array({{{"title", model->name},
                                    {"model_name", model->name},
                                    {"hash", nullptr},
                                    {"sha256", nullptr},
                                    {"filename", model->name},
                                    {"config", nullptr}}}));
}

void a1111_samplers(const Call& call) {
  reply(call,
        ordered_json::array(
            {{{"name", "Euler"}, {"aliases", ordered_json::array({"euler"})}, {"options", ordered_json::object()}}}));
}

void a1111_schedulers(const Call& call) {
  reply(call, ordered_json::array({{{"name", "automatic"},
                                    {"label", "Automatic"},
                                    {"aliases", nullptr},
                                    {"default_rho", -1.0},
                                    {"need_inner_model", false}}}));
}

void a1111_upscalers(const Call& call) {
  reply(call, ordered_json::array({{{"name", "None"},
                                    {"model_name", nullptr},
                                    {"model_path", nullptr},
                                    {"model_url", nullptr},
                                    {"scale", 4.0}}}));
}

void a1111_nothing_listed(const Call& call) { reply(call, ordered_json::array()); }

void a1111_embeddings(const Call& call) {
  reply(call, {{"loaded", ordered_json::object()}, {"skipped", ordered_json::object()}});
}

void a1111_scripts(const Call& call) {
  reply(call, {{"txt2img", ordered_json::array()}, {"img2img", ordered_json::array()}});
}

void a1111_cmd_flags(const Call& call) { reply(call, {{"api", true}}); }

void a1111_memory(const Call& call) {
  const double page_bytes = static_cast<double>(sysconf(_SC_PAGESIZE));
  const double total = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * page_bytes, used = resident_bytes();
  reply(call,
        {{"ram", {{"free", total - used}, {"used", used}, {"total", total}}}, {"cuda", {{"error", "unavailable"}}}});
}

/// Gradio's, which some clients take for a sign that there is a server.
void a1111_queue_status(const Call& call) {
  reply(call, {{"msg", "estimation"},
               {"rank", nullptr},
               {"queue_size", call.state.jobs.waiting()},
               {"rank_eta", nullptr},
               {"queue_eta", nullptr}});
}

void a1111_ping(const Call& call) { reply(call, ordered_json::object()); }

void a1111_nothing_done(const Call& call) { reply(call, nullptr); }

void a1111_skip(const Call& call) {
  call.state.jobs.interrupt();
  reply(call, nullptr);
}

void a1111_png_info(const Call& call) {
  const std::string file = sent_file(parse_body(call.request.body));
  std::vector<TextChunk> texts;
  try {
    texts = read_png_text({reinterpret_cast<const uint8_t*>(file.data()), file.size()});
  } catch (const Error& error) {
    refuse_field("image", "invalid_type", "image is no whole PNG: {}", error.what());
  }
  std::string info;
  ordered_json items = ordered_json::object();
  for (const TextChunk& chunk : texts) {
    if (chunk.keyword == "parameters")
      info = chunk.text;
    else
      items[chunk.keyword] = chunk.text;
  }
  reply(call, {{"info", info}, {"items", items}, {"parameters", webui_settings(info)}});
}

}  // namespace nostos::server
