// Tests pictures that drawings begin with, and their masks, from a client's body to the drawing of their job.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/fields.h"
#include "apps/server/job_board.h"
#include "base/sha256.h"
#include "io/file.h"
#include "io/grey_image.h"
#include "server_jobs_case.h"

namespace nostos::server {
namespace {

using nlohmann::json;

constexpr int64_t kHeight = 64, kWidth = 80;

/// \return the file of a picture that is black on its left and `right` on the rest.
std::string png(uint8_t right, int64_t height = kHeight, int64_t width = kWidth) {
  Image image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  for (size_t i = 0; i < image.rgb.size(); ++i)
    if (static_cast<int64_t>(i / 3) % width >= width / 4) image.rgb[i] = right;
  const std::vector<uint8_t> bytes = encode_image(image, ImageFormat::png);
  return {bytes.begin(), bytes.end()};
}

/// \return a picture of tests/data/io/pictures.
std::string fixture(const std::string& name) {
  return read_file(NOSTOS_SOURCE_DIR "/tests/data/io/pictures/" + name, size_t{1} << 20);
}

std::span<const uint8_t> bytes_of(const std::string& file) {
  return {reinterpret_cast<const uint8_t*>(file.data()), file.size()};
}

/// A model that takes no references, and one that takes two.
OrderLimits limits_of(int64_t max_reference_images) {
  return {.model = {.default_height = 64,
                    .default_width = 64,
                    .default_steps = 4,
                    .max_reference_images = max_reference_images},
          .max_pixels = 2048 * 2048,
          .model_path = "some/model",
          .precision = "f32"};
}
const OrderLimits kTextModel = limits_of(0), kEditModel = limits_of(2);

json with_image(json fields = json::object()) {
  json body{{"prompt", "x"}, {"image", to_base64(png(200))}};
  if (!fields.is_null()) body.update(fields);
  return body;
}

json a1111_body(json fields = json::object()) {
  json body{{"init_images", {to_base64(png(200))}}, {"mask", to_base64(png(255))}};
  if (!fields.is_null()) body.update(fields);
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
    EXPECT_TRUE(error.param.empty() || std::string(error.what()).find(error.param) != std::string::npos)
        << error.param << ": " << error.what();
    return error.param;
  }
}
std::string refused_json(const json& body, const std::string& what = "", const OrderLimits& limits = kTextModel) {
  return refused([&] { parse_order(body, limits, true); }, what);
}
std::string refused_a1111(const json& body, const std::string& what = "") {
  return refused([&] { parse_a1111_image_order(body, kTextModel); }, what);
}

TEST(BeginningPictures, ComeWithStrengthMaskBlurAndFit) {
  const DrawingOrder plain = parse_order(with_image(), kTextModel, true);
  EXPECT_EQ(*plain.record.request.strength, kTextModel.model.default_strength) << "the model takes no references";
  EXPECT_EQ(*plain.record.request.width, kWidth);
  EXPECT_EQ(drawn_steps(plain.record.request), 3);
  EXPECT_EQ(LiveJob(Job{.id = "job", .order = plain}).steps, 3);

  const DrawingOrder all = parse_order(
      with_image(
          {{"strength", 0.25}, {"mask", to_base64(png(255))}, {"mask_blur", 3.5}, {"image_fit", "pad"}, {"width", 96}}),
      kTextModel, true);
  const GenerationRequest& request = all.record.request;
  EXPECT_EQ(*request.strength, 0.25);
  EXPECT_EQ(request.mask->blur, 3.5);
  EXPECT_EQ(request.mask->image.size, (ImageSize{kHeight, kWidth}));
  EXPECT_EQ(request.mask->image.sha256, sha256(bytes_of(png(255))));
  EXPECT_EQ(*all.mask, png(255)) << "a mask that is white on black is kept as it is";
  EXPECT_EQ(request.image_fit, ImageFit::pad);
  EXPECT_EQ(*request.width, 96);
  EXPECT_EQ(drawn_steps(request), 1);

  const auto said_of = [](const DrawingOrder& order) {
    Job job;
    job.order = order;
    return job_json(job, std::nullopt, std::nullopt)["request"];
  };
  const json said = said_of(all);
  EXPECT_EQ(said["strength"], 0.25);
  EXPECT_EQ(said["image_fit"], "pad");
  EXPECT_EQ(said["mask"], (json{{"file", ""},
                                {"sha256", sha256(bytes_of(png(255)))},
                                {"width", kWidth},
                                {"height", kHeight},
                                {"blur", 3.5}}));
  const DrawingRecord stored = parse_drawing_record(to_json(all.record), "record");
  EXPECT_EQ(stored.request.mask->image.sha256, request.mask->image.sha256);

  const json text = said_of(parse_order({{"prompt", "x"}}, kTextModel, true));
  for (const char* field : {"strength", "image_fit", "mask"}) EXPECT_TRUE(text.at(field).is_null()) << field;
}

TEST(BeginningPictures, AreReferencesOfAModelThatEditsUnlessTheRequestSaysOtherwise) {
  const auto strength = [](const json& fields) {
    return parse_order(with_image(fields), kEditModel, true).record.request.strength;
  };
  EXPECT_EQ(strength({}), std::nullopt);
  EXPECT_EQ(strength({{"strength", 0.5}}), 0.5);
  EXPECT_EQ(strength({{"mask", to_base64(png(255))}}), kEditModel.model.default_mask_strength);
  const std::string picture = to_base64(png(200));
  const json three{picture, picture, picture};
  EXPECT_EQ(refused_json(with_image({{"image", three}}), "at most 2", kEditModel), "image");
  EXPECT_EQ(refused_json(with_image({{"image", three}, {"strength", 0.5}}), "", kEditModel), "accepted");
  EXPECT_EQ(refused_json(with_image({{"image", three}, {"mask", picture}}), "at most 2", kEditModel), "image")
      << "with a mask the model looks at what it begins with, too";
}

TEST(BeginningPictures, MayBeTheServersOwn) {
  OrderLimits limits = kTextModel;
  limits.find_picture = [](const std::string& id) {
    return id == "img_a_0" ? std::optional(Upload{"img_a_0.png", std::make_shared<const std::string>(png(7))})
                           : std::nullopt;
  };
  const DrawingOrder order = parse_order({{"prompt", "x"}, {"image", "img_a_0"}, {"mask", "img_a_0"}}, limits, true);
  EXPECT_EQ(order.record.request.images.at(0).file, "img_a_0.png");
  EXPECT_EQ(*order.references.at(0), png(7)) << "the picture itself may be removed meanwhile";
  EXPECT_EQ(*order.mask, png(7));
  EXPECT_EQ(refused_json({{"prompt", "x"}, {"image", {"img_b_0"}}}, "no such picture", limits), "image[0]");
  EXPECT_EQ(refused_json(with_image({{"mask", "img_"}}), "no such picture", limits), "mask");
  EXPECT_EQ(refused_json(with_image({{"mask", "img_../jobs.sqlite"}}), "no such picture", limits), "mask");
  EXPECT_EQ(refused_json({{"prompt", "x"}, {"image", "img_a_0"}}, "no such picture"), "image");
}

TEST(BeginningPictures, WhatIsWrongIsRefusedByField) {
  const std::string mask = to_base64(png(255));
  EXPECT_EQ(refused_json({{"prompt", "x"}, {"mask", mask}}, "no image"), "mask");
  EXPECT_EQ(refused_json({{"prompt", "x"}, {"strength", 0.5}}, "no image"), "strength");
  EXPECT_EQ(refused_json(with_image({{"mask_blur", 2}}), "no mask"), "mask_blur");
  EXPECT_EQ(refused_json(with_image({{"mask_blur", 0}})), "accepted");
  EXPECT_EQ(refused_json(with_image({{"mask", mask}, {"mask_blur", -1}})), "mask_blur");
  EXPECT_EQ(refused_json(with_image({{"mask", mask}, {"mask_blur", 257}})), "mask_blur");
  EXPECT_EQ(refused_json(with_image({{"strength", 0}}), "above 0"), "strength");
  EXPECT_EQ(refused_json(with_image({{"strength", 1e-300}}), "none would be drawn"), "strength");
  EXPECT_EQ(refused_json(with_image({{"strength", 1.5}})), "strength");
  EXPECT_EQ(refused_json(with_image({{"image_fit", "zoom"}}), "crop, pad or stretch"), "image_fit");
  EXPECT_EQ(refused_json(with_image({{"mask", json::array({mask})}}), "base64"), "mask");
  EXPECT_EQ(refused_json(with_image({{"mask", ""}}), "base64"), "mask");
  EXPECT_EQ(refused_json(with_image({{"mask", to_base64("GIF89a")}}), "no PNG, JPEG or WebP"), "mask");
  EXPECT_EQ(refused_json(with_image({{"mask", to_base64(png(255).substr(0, 90))}}), "damaged PNG"), "mask");
  EXPECT_EQ(refused_json(with_image({{"mask", to_base64(png(255, 8, 900))}})), "accepted") << "it has any size";
}

/// \return the mask that an order keeps, decoded as it will be drawn.
GreyImage kept(const DrawingOrder& order) {
  const ReferenceImage& mask = order.record.request.mask->image;
  EXPECT_EQ(mask.sha256, sha256(bytes_of(*order.mask)));
  const GreyImage grey = grey_of(decode_image(bytes_of(*order.mask)));
  EXPECT_EQ(mask.size, (ImageSize{grey.height, grey.width}));
  return grey;
}

GreyImage turned(GreyImage mask) {
  for (uint8_t& value : mask.grey) value = static_cast<uint8_t>(255 - value);
  return mask;
}

TEST(Masks, OfFormsAreDrawnAnewWhereTheyAreTransparent) {
  const std::string picture = png(200), transparent = fixture("alpha.png"), opaque = png(255);
  const auto order = [&](const std::string& mask) {
    return parse_form_order({{.name = "prompt", .body = "x"},
                             {.name = "image", .file = "a.png", .is_file = true, .body = picture},
                             {.name = "mask", .file = "m.png", .is_file = true, .body = mask},
                             {.name = "mask_blur", .body = "2"},
                             {.name = "strength", .body = "0.5"},
                             {.name = "image_fit", .body = "stretch"}},
                            kTextModel)
        .order;
  };
  const DrawingOrder by_alpha = order(transparent);
  EXPECT_EQ(kept(by_alpha), decode_mask(bytes_of(transparent)).grey);
  EXPECT_EQ(by_alpha.record.request.mask->image.file, "m.png");
  EXPECT_EQ(by_alpha.record.request.mask->blur, 2);
  EXPECT_EQ(*by_alpha.record.request.strength, 0.5);
  EXPECT_EQ(by_alpha.record.request.image_fit, ImageFit::stretch);
  EXPECT_EQ(*order(opaque).mask, opaque);
  EXPECT_EQ(refused([&] { order("no picture"); }), "mask");
}

TEST(Masks, OfFormsAreFilesAndComeOnce) {
  const std::string picture = png(200);
  const FormPart prompt{.name = "prompt", .body = "x"}, image{.name = "image", .is_file = true, .body = picture};
  FormPart mask{.name = "mask", .is_file = true, .body = picture};
  const auto order = [&](const std::vector<FormPart>& parts) {
    return refused([&] { parse_form_order(parts, kTextModel); });
  };
  EXPECT_EQ(order({prompt, image, mask}), "accepted");
  EXPECT_EQ(order({prompt, image, mask, mask}), "mask");
  EXPECT_EQ(order({prompt, mask}), "image");
  mask.is_file = false;
  EXPECT_EQ(order({prompt, image, mask}), "mask");
}

TEST(Masks, OfWebUisAreDrawnAnewWhereTheyAreNotTransparentAndMayBeInverted) {
  const auto order = [](const json& fields) { return parse_a1111_image_order(a1111_body(fields), kTextModel); };
  const GreyImage white = grey_of(decode_image(bytes_of(png(255))));
  const GreyImage by_alpha = decode_mask(bytes_of(fixture("alpha.png"))).grey;
  const std::string transparent = to_base64(fixture("alpha.png"));
  EXPECT_EQ(*order({}).mask, png(255));
  EXPECT_EQ(kept(order({{"inpainting_mask_invert", 1}})), turned(white));
  EXPECT_EQ(kept(order({{"mask", transparent}})), turned(by_alpha));
  EXPECT_EQ(kept(order({{"mask", transparent}, {"inpainting_mask_invert", true}})), by_alpha);
}

TEST(WebUis, HaveTheirOwnDefaultsAndNames) {
  const auto request = [](const json& fields) {
    return parse_a1111_image_order(a1111_body(fields), kTextModel).record.request;
  };
  const GenerationRequest usual = request({});
  EXPECT_EQ(*usual.strength, 0.75);
  EXPECT_EQ(usual.mask->blur, 4);
  EXPECT_EQ(usual.image_fit, ImageFit::stretch);
  EXPECT_EQ(*usual.width, kWidth);
  const GenerationRequest given = request({{"denoising_strength", "0.5"},
                                           {"mask_blur", 0},
                                           {"resize_mode", 2},
                                           {"width", 96},
                                           {"height", 96},
                                           {"steps", 8},
                                           {"cfg_scale", 3},
                                           {"batch_size", 2}});
  EXPECT_EQ(*given.strength, 0.5);
  EXPECT_EQ(given.mask->blur, 0);
  EXPECT_EQ(given.image_fit, ImageFit::pad);
  EXPECT_EQ(given.num_outputs, 2);
  EXPECT_EQ(*given.guidance_scale, 2);
  EXPECT_EQ(request({{"resize_mode", 1}}).image_fit, ImageFit::crop);
  for (const json& none : {json(), json("")}) EXPECT_FALSE(request({{"mask", none}, {"inpaint_full_res", true}}).mask);

  const std::string picture = to_base64(png(200));
  EXPECT_EQ(refused_a1111(json::object()), "init_images");
  EXPECT_EQ(refused_a1111(a1111_body({{"init_images", json::array()}})), "init_images");
  EXPECT_EQ(refused_a1111(a1111_body({{"init_images", picture}})), "init_images");
  EXPECT_EQ(refused_a1111(a1111_body({{"init_images", {picture, picture}}}), "begins with one"), "init_images");
  EXPECT_EQ(refused_a1111(a1111_body({{"init_images", {7}}})), "init_images[0]");
  EXPECT_EQ(refused_a1111(a1111_body({{"init_images", {to_base64("GIF89a")}}})), "init_images[0]");
  EXPECT_EQ(refused_a1111(a1111_body({{"denoising_strength", 0}}), "denoising_strength is 0"), "denoising_strength");
  EXPECT_EQ(refused_a1111(a1111_body({{"denoising_strength", 2}})), "denoising_strength");
  EXPECT_EQ(refused_a1111(a1111_body({{"resize_mode", 3}}), "resizes latents"), "resize_mode");
  EXPECT_EQ(refused_a1111(a1111_body({{"inpaint_full_res", true}}), "not drawn alone"), "inpaint_full_res");
  EXPECT_EQ(refused_a1111(a1111_body({{"inpaint_full_res", 0}})), "accepted");
  EXPECT_EQ(refused_a1111(a1111_body({{"mask", to_base64("GIF89a")}})), "mask");
  EXPECT_EQ(refused_a1111(a1111_body({{"mask_blur", 1000}})), "mask_blur");
}

/// \return a job that begins with a picture, with a mask whose right is `right`.
Job masked_job(const std::string& id, uint8_t right = 255, bool attached = false) {
  Job job = small_job(id, attached);
  job.order = parse_order(with_image({{"mask", to_base64(png(right))}, {"num_inference_steps", 2}}), kTextModel, true);
  return job;
}

class KeptMasks : public testing::Test {
 protected:
  int64_t files() const {
    return std::distance(std::filesystem::directory_iterator(folder_.path() / "references"), {});
  }

  TemporaryFolder folder_;
};

TEST_F(KeptMasks, AreThereUntilTheirJobHasEndedAndSurviveTheServer) {
  {
    JobStore store(folder_.path());
    for (const char* id : {"job_cancelled", "job_done", "job_runs", "job_waits"}) store.insert(masked_job(id));
    store.insert(masked_job("job_of_a_client", 255, true));
    EXPECT_EQ(files(), 10);
    store.set_ended("job_cancelled", JobStatus::cancelled, "");
    EXPECT_EQ(files(), 8);
    store.set_running("job_done");
    store.set_completed(*store.find("job_done"), {}, "{}");
    EXPECT_EQ(files(), 6);
    EXPECT_THROW(store.read_mask("job_done"), Error);
    store.set_running("job_runs");
    write_file_atomically(folder_.path() / "references" / "job_unknown_mask", std::vector<uint8_t>(3));
  }
  JobStore store(folder_.path());
  EXPECT_EQ(files(), 4);
  for (const char* id : {"job_runs", "job_waits"}) {
    EXPECT_EQ(store.read_mask(id), png(255));
    EXPECT_EQ(store.find(id)->order.record.request.mask->image.size, (ImageSize{kHeight, kWidth}));
    store.remove(*store.find(id));
  }
  EXPECT_EQ(files(), 0);
}

TEST_F(KeptMasks, HaveTheirPixelsWhenTheirJobIsDrawnAndFailItAloneWhenTheyAreGone) {
  JobStore store(folder_.path());
  Metrics metrics;
  JobService jobs(store, metrics, 10);
  for (const char* id : {"job_changed", "job_gone", "job_whole"}) jobs.submit(masked_job(id));
  std::filesystem::remove(folder_.path() / "references" / "job_gone_mask");
  write_file_atomically(folder_.path() / "references" / "job_changed_mask", bytes_of(png(9)));
  std::vector<GenerationRequest> drawn;
  std::thread drawing([&] {
    jobs.run({.draw =
                  [&](std::span<const GenerationRequest> requests, std::span<const Progress> progress, const Lane&,
                      const LaneChange&) {
                    drawn.insert(drawn.end(), requests.begin(), requests.end());
                    return black(requests, progress);
                  },
              .pictures_at_once = one_at_once,
              .takes_together = [](const GenerationRequest&, const GenerationRequest&) { return false; }});
  });
  wait_until([&] { return jobs.waiting() == 0 && !jobs.is_drawing(); });
  jobs.stop(std::chrono::seconds(10));
  drawing.join();
  ASSERT_EQ(drawn.size(), 1u);
  EXPECT_EQ(*drawn[0].mask->image.image, decode_image(bytes_of(png(255))));
  EXPECT_EQ(*drawn[0].images.at(0).image, decode_image(bytes_of(png(200))));
  EXPECT_EQ(store.find("job_whole")->status, JobStatus::completed);
  EXPECT_EQ(store.find("job_gone")->status, JobStatus::failed);
  EXPECT_NE(store.find("job_gone")->error.find("mask is not there any more"), std::string::npos);
  EXPECT_EQ(store.find("job_changed")->status, JobStatus::failed);
  EXPECT_NE(store.find("job_changed")->error.find("mask is not the picture"), std::string::npos);
  EXPECT_EQ(files(), 0);
}

}  // namespace
}  // namespace nostos::server
