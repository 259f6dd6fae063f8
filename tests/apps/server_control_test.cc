// Tests pictures that drawings follow, from a client's body to the drawing of their job.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/fields.h"
#include "apps/server/job_board.h"
#include "base/sha256.h"
#include "io/file.h"
#include "server_jobs_case.h"

namespace nostos::server {
namespace {

using nlohmann::json;

/// \return the file of a picture of one grey.
std::string png(uint8_t grey, int64_t height = 64, int64_t width = 80) {
  const Image image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3), grey)};
  const std::vector<uint8_t> bytes = encode_image(image, ImageFormat::png);
  return {bytes.begin(), bytes.end()};
}

std::span<const uint8_t> bytes_of(const std::string& file) {
  return {reinterpret_cast<const uint8_t*>(file.data()), file.size()};
}

OrderLimits limits_of(ControlSupport control, bool sees_mask = false) {
  return {.model = {.default_height = 64,
                    .default_width = 64,
                    .default_steps = 4,
                    .control = control,
                    .control_sees_mask = sees_mask},
          .max_pixels = 2048 * 2048,
          .model_path = "some/model",
          .precision = "f32"};
}
const OrderLimits kLimits = limits_of(ControlSupport::loaded);

json with_control(json fields = json::object()) {
  json control{{"image", to_base64(png(9))}};
  if (!fields.is_null()) control.update(fields);
  return {{"prompt", "x"}, {"control", control}};
}

json with_unit(const json& fields, json body = {{"prompt", "x"}}) {
  json unit{{"image", to_base64(png(9))}};
  if (!fields.is_null()) unit.update(fields);
  body["alwayson_scripts"] = {{"controlnet", {{"args", {unit}}}}};
  return body;
}

/// \return the field that an order is refused for, or "accepted". \param what its message has
template <class Parse>
std::string refused(const Parse& parse, const std::string& what = "") {
  try {
    parse();
    return "accepted";
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(error.param), std::string::npos) << error.param << ": " << error.what();
    return error.param;
  }
}
std::string refused_json(const json& body, const std::string& what = "", const OrderLimits& limits = kLimits) {
  return refused([&] { parse_order(body, limits, true); }, what);
}
std::string refused_a1111(const json& body, const std::string& what = "", const OrderLimits& limits = kLimits) {
  return refused([&] { parse_a1111_order(body, limits); }, what);
}

TEST(FollowedPictures, ComeWithScaleStartEndAndPreprocessor) {
  const DrawingOrder plain = parse_order(with_control(), kLimits, true);
  const Control& usual = *plain.record.request.control;
  EXPECT_EQ(usual.scale, 0.75);
  EXPECT_EQ(usual.start, 0);
  EXPECT_EQ(usual.end, 1);
  EXPECT_EQ(usual.preprocessor, Preprocessor::none);
  EXPECT_EQ(usual.image->size, (ImageSize{64, 80}));
  EXPECT_EQ(usual.image->sha256, sha256(bytes_of(png(9))));
  EXPECT_EQ(*plain.control, png(9));
  EXPECT_EQ(*plain.record.request.width, 80) << "of the control image";

  json body = with_control({{"scale", 0.9}, {"start", 0.25}, {"end", 0.75}, {"preprocessor", "canny"}});
  body["image_fit"] = "pad";
  body["image"] = to_base64(png(3));
  body["mask"] = to_base64(png(255));
  const DrawingOrder all = parse_order(body, kLimits, true);
  const GenerationRequest& request = all.record.request;
  EXPECT_EQ(request.control->scale, 0.9);
  EXPECT_EQ(request.control->start, 0.25);
  EXPECT_EQ(request.control->end, 0.75);
  EXPECT_EQ(request.control->preprocessor, Preprocessor::canny);
  EXPECT_EQ(request.image_fit, ImageFit::pad);
  EXPECT_EQ(*all.references.at(0), png(3));
  EXPECT_EQ(*all.mask, png(255));
  EXPECT_EQ(*all.control, png(9));

  Job job;
  job.order = all;
  const json said = job_json(job, std::nullopt, std::nullopt)["request"];
  EXPECT_EQ(said["control"],
            json({{"image", {{"file", ""}, {"sha256", sha256(bytes_of(png(9)))}, {"width", 80}, {"height", 64}}},
                  {"scale", 0.9},
                  {"start", 0.25},
                  {"end", 0.75},
                  {"preprocessor", "canny"}}));
  EXPECT_EQ(said["image_fit"], "pad");
}

TEST(FollowedPictures, AreRefusedByTheirFieldsNames) {
  EXPECT_EQ(refused_json(with_control(), "no control networks for this model", limits_of(ControlSupport::none)),
            "control");
  EXPECT_EQ(refused_json(with_control(), "started without --controlnet", limits_of(ControlSupport::not_loaded)),
            "control");
  EXPECT_EQ(refused_json({{"prompt", "x"}, {"control", "edges.png"}}, "must be an object"), "control");
  EXPECT_EQ(refused_json({{"prompt", "x"}, {"control", json::object()}}, "give control.image"), "control");
  EXPECT_EQ(refused_json(with_control({{"image", "GIF89a"}})), "control.image");
  EXPECT_EQ(refused_json(with_control({{"image", to_base64("GIF89a")}})), "control.image");
  EXPECT_EQ(refused_json(with_control({{"scale", 11}}), "from 0 to 10"), "control.scale");
  EXPECT_EQ(refused_json(with_control({{"start", -1}})), "control.start");
  EXPECT_EQ(refused_json(with_control({{"end", 2}})), "control.end");
  EXPECT_EQ(refused_json(with_control({{"start", 0.5}, {"end", 0.5}}), "larger"), "control.start");
  EXPECT_EQ(refused_json(with_control({{"preprocessor", "depth"}}), "canny"), "control.preprocessor");
  EXPECT_EQ(refused_json(with_control({{"strength", 1}}), "unknown"), "control.strength");
}

TEST(FollowedPictures, MayBeNoneWhereTheNetworkIsToldOfAMask) {
  const OrderLimits reads = limits_of(ControlSupport::loaded, true);
  const std::string picture = to_base64(png(3)), mask = to_base64(png(255));
  for (const json& control : {json{{"scale", 0.9}}, json{{"scale", 0.9}, {"image", nullptr}}}) {
    const json body{{"prompt", "x"}, {"image", picture}, {"mask", mask}, {"control", control}};
    const DrawingOrder order = parse_order(body, reads, true);
    EXPECT_EQ(order.control, nullptr);
    EXPECT_FALSE(order.record.request.control->image.has_value());
    Job job;
    job.order = order;
    const json said = job_json(job, std::nullopt, std::nullopt)["request"]["control"];
    EXPECT_EQ(said, json({{"image", nullptr}, {"scale", 0.9}, {"start", 0}, {"end", 1}, {"preprocessor", "none"}}));
    EXPECT_EQ(refused_json(body, "16 channels"), "control");
  }
  EXPECT_EQ(refused_json({{"prompt", "x"}, {"image", picture}, {"control", json::object()}}, "or a mask", reads),
            "control");
  EXPECT_EQ(refused_json({{"prompt", "x"}, {"image", picture}, {"mask", mask}, {"control", {{"preprocessor", "gray"}}}},
                         "no control.image", reads),
            "control.preprocessor");
}

TEST(FollowedPictures, OfFormsAreJson) {
  const std::string picture = png(200), control = with_control({{"scale", 0.5}})["control"].dump();
  const DrawingOrder order = parse_form_order({{.name = "prompt", .body = "x"},
                                               {.name = "image", .is_file = true, .body = picture},
                                               {.name = "control", .body = control}},
                                              kLimits)
                                 .order;
  EXPECT_EQ(order.record.request.control->scale, 0.5);
  EXPECT_EQ(*order.control, png(9));
}

TEST(FollowedPictures, OfWebUisAreUnitsOfTheirScript) {
  const auto request = [](const json& body) { return parse_a1111_order(body, kLimits).record.request; };
  const GenerationRequest usual = request(with_unit({}));
  EXPECT_EQ(usual.control->scale, 1);
  EXPECT_EQ(usual.control->preprocessor, Preprocessor::none);
  const GenerationRequest given = request(with_unit({{"enabled", true},
                                                     {"weight", "0.6"},
                                                     {"guidance_start", 0.1},
                                                     {"guidance_end", 0.9},
                                                     {"module", "Canny"},
                                                     {"model", "whatever"},
                                                     {"pixel_perfect", true}}));
  EXPECT_EQ(given.control->scale, 0.6);
  EXPECT_EQ(given.control->start, 0.1);
  EXPECT_EQ(given.control->end, 0.9);
  EXPECT_EQ(given.control->preprocessor, Preprocessor::canny);
  EXPECT_EQ(request(with_unit({{"module", "tile_resample"}})).control->preprocessor, Preprocessor::tile);
  EXPECT_TRUE(request(with_unit({{"image", {{"image", to_base64(png(9))}}}})).control);
  EXPECT_FALSE(request(with_unit({{"enabled", false}, {"module", "depth"}})).control);
  EXPECT_FALSE(request({{"alwayson_scripts", {{"controlnet", 3}, {"other", {{"args", {1}}}}}}}).control);

  const std::string unit = "alwayson_scripts.controlnet.args[0]";
  EXPECT_EQ(refused_a1111(with_unit({}), "--controlnet", limits_of(ControlSupport::not_loaded)), unit);
  EXPECT_EQ(refused_a1111(with_unit({{"module", "depth_midas"}}), "canny"), unit + ".module");
  EXPECT_EQ(refused_a1111(with_unit({{"weight", 11}})), unit + ".weight");
  EXPECT_EQ(refused_a1111(with_unit({{"image", nullptr}}), "missing"), unit + ".image");
  json two = with_unit({});
  two["alwayson_scripts"]["controlnet"]["args"].push_back(two["alwayson_scripts"]["controlnet"]["args"][0]);
  EXPECT_EQ(refused_a1111(two, "one too many"), "alwayson_scripts.controlnet.args[1]");

  const DrawingOrder begins =
      parse_a1111_image_order(with_unit({{"image", nullptr}}, {{"init_images", {to_base64(png(5))}}}), kLimits);
  EXPECT_EQ(*begins.control, png(5)) << "the picture that the drawing begins with";
}

TEST(FollowedPictures, AreThereUntilTheirJobHasEnded) {
  const TemporaryFolder folder;
  const auto files = [&] {
    return std::distance(std::filesystem::directory_iterator(folder.path() / "references"), {});
  };
  const auto job = [](const std::string& id) {
    Job made = small_job(id);
    made.order = parse_order(with_control({{"scale", 0.5}}), kLimits, true);
    return made;
  };
  {
    JobStore store(folder.path());
    store.insert(job("job_waits"));
    store.insert(job("job_cancelled"));
    EXPECT_EQ(files(), 2);
    store.set_ended("job_cancelled", JobStatus::cancelled, "");
    EXPECT_EQ(files(), 1);
  }
  JobStore store(folder.path());
  EXPECT_EQ(store.read_control("job_waits"), png(9));
  EXPECT_EQ(store.find("job_waits")->order.record.request.control->scale, 0.5);
  store.remove(*store.find("job_waits"));
  EXPECT_EQ(files(), 0);
}

}  // namespace
}  // namespace nostos::server
