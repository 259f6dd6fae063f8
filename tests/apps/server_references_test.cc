// Tests reference pictures from a client's body to the drawing of their job, and what is left of them on disk.
#include <gtest/gtest.h>
#include <zlib.h>

#include <atomic>
#include <future>
#include <nlohmann/json.hpp>

#include "apps/server/api_error.h"
#include "apps/server/fields.h"
#include "apps/server/reading_lane.h"
#include "apps/server/uploads.h"
#include "base/error.h"
#include "io/file.h"
#include "server_jobs_case.h"

namespace nostos::server {
namespace {

const ModelLimits kModel{.default_height = 64, .default_width = 64, .max_reference_images = 2};
const OrderLimits kLimits{.model = kModel, .max_pixels = 2048 * 2048, .model_path = "some/model", .precision = "f32"};

std::string png(uint8_t value, int64_t height = 64, int64_t width = 80) {
  const std::vector<uint8_t> bytes = encode_image(
      Image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3), value)}, ImageFormat::png);
  return {bytes.begin(), bytes.end()};
}

/// \return a body of the jobs' API with the JSON of its `image`.
std::string body_with(const std::string& image) { return R"({"prompt": "x", "image": )" + image + "}"; }
std::string quoted(const std::string& text) { return "\"" + text + "\""; }

/// \return the field that an order is refused for, or "accepted".
template <class Parse>
std::string refused(const Parse& parse, const std::string& what = "") {
  try {
    parse();
    return "accepted";
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    return error.param;
  }
}

std::string refused_json(const std::string& image, const std::string& what = "", const OrderLimits& limits = kLimits) {
  return refused([&] { parse_order(parse_body(body_with(image)), limits, true); }, what);
}

std::string refused_form(const std::vector<FormPart>& parts, const std::string& what = "") {
  return refused([&] { parse_form_order(parts, kLimits); }, what);
}

TEST(References, ComeInBase64AloneOrInAList) {
  const std::string first = to_base64(png(7)), second = "data:image/png;base64," + to_base64(png(9, 100, 90));
  const auto order = [](const std::string& image) { return parse_order(parse_body(body_with(image)), kLimits, true); };
  const DrawingOrder one = order(quoted(first));
  ASSERT_EQ(one.record.request.images.size(), 1u);
  EXPECT_EQ(one.record.request.images[0].size, (ImageSize{64, 80}));
  EXPECT_EQ(one.record.request.images[0].image, nullptr) << "pixels wait on the disk";
  EXPECT_EQ(*one.references.at(0), png(7));
  EXPECT_EQ(*one.record.request.width, 80);
  const DrawingOrder both = order("[" + quoted(first) + ", " + quoted(second) + "]");
  ASSERT_EQ(both.references.size(), 2u);
  EXPECT_EQ(*both.references[1], png(9, 100, 90));
  EXPECT_EQ(both.record.request.images[0].sha256, one.record.request.images[0].sha256);
  std::string lines = "data:image/png;base64,\\n";  // as encoders of MIME break them
  for (size_t i = 0; i < first.size(); i += 76) lines += first.substr(i, 76) + "\\r\\n";
  EXPECT_EQ(*order("\"" + lines + "\"").references.at(0), png(7));
  EXPECT_TRUE(order("[]").references.empty());
  EXPECT_TRUE(order("null").references.empty());
}

TEST(References, WhatIsNoneIsRefusedByField) {
  const std::string good = quoted(to_base64(png(7)));
  EXPECT_EQ(refused_json(good), "accepted");
  EXPECT_EQ(refused_json("7", "base64"), "image");
  EXPECT_EQ(refused_json("{}", "base64"), "image");
  EXPECT_EQ(refused_json("[" + good + ", 7]", "base64"), "image[1]");
  EXPECT_EQ(refused_json("\"\"", "base64"), "image");
  EXPECT_EQ(refused_json("\"no base64!\"", "base64"), "image");
  EXPECT_EQ(refused_json("\"data:image/png,raw\"", "without base64"), "image");
  EXPECT_EQ(refused_json("\"data:\"", "without base64"), "image");
  EXPECT_EQ(refused_json("[" + good + "," + good + "," + good + "]", "at most 2"), "image");
  EXPECT_EQ(refused_json(quoted(to_base64("GIF89a")), "no PNG, JPEG or WebP"), "image[0]");
  EXPECT_EQ(refused_json("[" + good + "," + quoted(to_base64(png(7).substr(0, 90))) + "]", "damaged PNG"), "image[1]");
  EXPECT_EQ(refused_json(quoted(to_base64(png(7, 32, 32))), "at least 64"), "image[0]");
  EXPECT_EQ(refused_json(quoted(to_base64(png(7, 64, 520))), "8 times"), "image[0]");
  const OrderLimits text_alone{.model = {}, .max_pixels = 1 << 20, .model_path = "", .precision = "f32"};
  EXPECT_EQ(refused_json(good, "", text_alone), "accepted") << "the drawing begins with it";
  EXPECT_EQ(refused_json("[" + good + "," + good + "]", "takes one", text_alone), "image");
  EXPECT_EQ(refused_json("null", "", text_alone), "accepted");
}

TEST(References, HeadersOfAllAreLookedAtBeforeAPixelOfAny) {
  std::string damaged = png(7);
  damaged[damaged.size() - 14] = static_cast<char>(damaged[damaged.size() - 14] ^ 1);
  const auto both = [&](const std::string& second) {
    return "[" + quoted(to_base64(damaged)) + "," + quoted(to_base64(second)) + "]";
  };
  EXPECT_EQ(refused_json(both(png(7)), "damaged PNG"), "image[0]");
  EXPECT_EQ(refused_json(both(png(7, 32, 32)), "at least 64"), "image[1]");
  EXPECT_EQ(refused_json(both(png(7, 64, 520)), "8 times"), "image[1]");
  EXPECT_EQ(refused_json(both("GIF89a"), "no PNG, JPEG or WebP"), "image[1]");
}

TEST(References, HaveAsManyPixelsTogetherAsARequestMay) {
  // The size in the header alone, which is where it is looked at: the rest is that of a small picture.
  const auto of_size = [](std::string file, char height) {
    file.replace(16, 8, std::string("\0\0\x20\0\0\0", 6) + height + '\0');
    const uint32_t sum = crc32(0, reinterpret_cast<const Bytef*>(file.data()) + 12, 17);
    for (int i = 0; i < 4; ++i) file[static_cast<size_t>(29 + i)] = static_cast<char>(sum >> (24 - 8 * i));
    return file;
  };
  const ModelLimits three{.max_reference_images = 3};
  const OrderLimits limits{.model = three, .max_pixels = 1 << 20, .model_path = "", .precision = "f32"};
  const std::string large = quoted(to_base64(of_size(png(7), '\x20')));  // 8192 a side, of which two are the most
  const std::string list = "[" + large + "," + large;
  EXPECT_EQ(refused_json(list + "]", "damaged PNG", limits), "image[0]");
  EXPECT_EQ(refused_json(list + "," + quoted(to_base64(png(7))) + "]",
                         "134222848 pixels together, of a request at most "
                         "134217728",
                         limits),
            "image[2]");
}

TEST(ReadingLane, TakesAsManyAsMayWaitAndThenOthersAgain) {
  std::promise<void> may_end;
  const std::shared_future<void> ends = may_end.get_future().share();
  std::atomic<int> at_once = 0, done = 0;
  constexpr size_t kMost = 16;
  ReadingLane lane(kMost);
  const auto post = [&] {
    return lane.post([&, ends] {
      EXPECT_EQ(++at_once, 1);
      ends.wait();
      --at_once;
      ++done;
    });
  };
  for (size_t i = 0; i < kMost; ++i) EXPECT_TRUE(post());
  EXPECT_FALSE(post());
  may_end.set_value();
  wait_until([&] { return done == static_cast<int>(kMost); });
  wait_until([&] { return post(); });
}

TEST(References, TheServersLimitCountsForTheirSizesToo) {
  OrderLimits limits = kLimits;
  limits.max_pixels = 64 * 64;
  EXPECT_EQ(refused_json(quoted(to_base64(png(7))), "80x64", limits), "size");
}

TEST(Forms, HaveFilesAndFields) {
  const std::string picture = png(7);
  const FormPart prompt{.name = "prompt", .body = "x"};
  const FormPart image{.name = "image", .file = "cat.png", .is_file = true, .body = picture};
  FormPart list = image;
  list.name = "image[]";
  const FormOrder form = parse_form_order({prompt,
                                           list,
                                           {.name = "n", .body = "2"},
                                           {.name = "size", .body = "96x64"},
                                           {.name = "stream", .body = "true"},
                                           {.name = "unknown", .body = "is taken"},
                                           list},
                                          kLimits);
  EXPECT_EQ(form.order.record.request.num_outputs, 2);
  EXPECT_EQ(*form.order.record.request.width, 96);
  EXPECT_EQ(form.order.record.request.images.at(1).file, "cat.png");
  EXPECT_EQ(form.fields["stream"], "true");

  EXPECT_EQ(refused_form({prompt}, "send the picture"), "image");
  EXPECT_EQ(refused_form({image}, "say what"), "prompt");
  EXPECT_EQ(refused_form({prompt, image, image, image}, "at most 2"), "image");
  EXPECT_EQ(refused_form({prompt, image, {.name = "mask", .is_file = true}}, "empty"), "mask");
  EXPECT_EQ(refused_form({prompt, {.name = "image", .body = picture}}, "file"), "image");
  EXPECT_EQ(refused_form({prompt, {.name = "image", .is_file = true, .body = ""}}, "empty"), "image[0]");
  EXPECT_EQ(refused_form({{.name = "prompt", .is_file = true, .body = "x"}, image}, "cannot be a file"), "prompt");
  EXPECT_EQ(refused_form({prompt, prompt, image}, "twice"), "prompt");
  const FormPart stream{.name = "stream", .body = "false"}, unknown{.name = "bogus[a][]", .body = "1"};
  EXPECT_EQ(refused_form({prompt, stream, image, stream}, "twice"), "stream");
  EXPECT_EQ(refused_form({prompt, image, unknown, unknown}), "accepted");
  EXPECT_EQ(refused_form({{.name = "prompt", .body = "\xff"}, image}, "UTF-8"), "prompt");
  EXPECT_EQ(refused_form({prompt, image, {.name = "n", .body = "many"}}), "n");
}

/// \return a job of the stored kind with references of these files.
Job job_with(const std::string& id, const std::vector<std::string>& files, bool attached = false) {
  Job job = small_job(id, attached);
  SentPictures sent;
  for (const std::string& file : files) sent.images.push_back({.bytes = std::make_shared<const std::string>(file)});
  take_pictures(sent, kModel, job.order);
  return job;
}

class StoredReferences : public testing::Test {
 protected:
  /// \return how many files of reference pictures there are.
  int64_t files() const {
    return std::distance(std::filesystem::directory_iterator(folder_.path() / "references"), {});
  }

  TemporaryFolder folder_;
};

TEST_F(StoredReferences, AreThereUntilTheirJobHasEnded) {
  JobStore store(folder_.path());
  for (const char* id : {"job_cancelled", "job_done", "job_waits"}) store.insert(job_with(id, {png(1), png(2)}));
  EXPECT_EQ(files(), 6);
  EXPECT_EQ(store.read_reference("job_done", 1), png(2));
  EXPECT_EQ(store.find("job_done")->order.record.request.images.at(1).size, (ImageSize{64, 80}));
  store.set_ended("job_cancelled", JobStatus::cancelled, "");
  EXPECT_EQ(files(), 4);
  store.set_running("job_done");
  store.set_completed(*store.find("job_done"), {}, "{}");
  EXPECT_EQ(files(), 2);
  EXPECT_THROW(store.read_reference("job_done", 0), Error);
  store.set_running("job_waits");
  store.set_queued("job_waits");
  EXPECT_EQ(files(), 2);
  store.remove(*store.find("job_waits"));
  EXPECT_EQ(files(), 0);
}

TEST_F(StoredReferences, SurviveTheServerWithTheirJobAlone) {
  {
    JobStore store(folder_.path());
    store.insert(job_with("job_waits", {png(1)}));
    store.insert(job_with("job_runs", {png(2), png(3)}));
    store.set_running("job_runs");
    store.insert(job_with("job_of_a_client", {png(4)}, true));
    write_file_atomically(folder_.path() / "references" / "job_unknown_0", std::vector<uint8_t>(3));
    EXPECT_EQ(files(), 5);
  }
  JobStore store(folder_.path());
  EXPECT_EQ(files(), 3);
  EXPECT_EQ(store.read_reference("job_waits", 0), png(1));
  EXPECT_EQ(store.read_reference("job_runs", 1), png(3));
}

TEST_F(StoredReferences, OfARepeatedRequestAreThoseOfTheFirst) {
  JobStore store(folder_.path());
  Job first = job_with("job_first", {png(1)}), again = job_with("job_again", {png(1)});
  first.idempotency_key = again.idempotency_key = "key";
  EXPECT_EQ(store.insert(first).id, "job_first");
  EXPECT_EQ(store.insert(again).id, "job_first");
  EXPECT_EQ(files(), 1);
}

class DrawnReferences : public StoredReferences {
 protected:
  /// Draws what waits, with the requests that the engine is given in `drawn_`.
  void draw_all() {
    std::thread drawing([&] {
      jobs_.run({.draw =
                     [&](std::span<const GenerationRequest> requests, std::span<const Progress> progress, const Lane&,
                         const LaneChange&) {
                       drawn_.insert(drawn_.end(), requests.begin(), requests.end());
                       return black(requests, progress);
                     },
                 .pictures_at_once = [](const GenerationRequest&) { return int64_t{8}; },
                 .takes_together =
                     [](const GenerationRequest& a, const GenerationRequest& b) {
                       return draws_together(resolve(a, kModel), resolve(b, kModel));
                     }});
    });
    wait_until([&] { return jobs_.waiting() == 0 && !jobs_.is_drawing(); });
    jobs_.stop(std::chrono::seconds(10));
    drawing.join();
  }

  JobStore store_{folder_.path()};
  Metrics metrics_;
  JobService jobs_{store_, metrics_, 10};
  std::vector<GenerationRequest> drawn_;
};

TEST_F(DrawnReferences, HaveTheirPixelsWhenTheyAreDrawn) {
  jobs_.submit(job_with("job_a", {png(1), png(2)}));
  jobs_.submit(job_with("job_b", {png(1), png(2)}));
  jobs_.submit(job_with("job_c", {png(3)}));
  draw_all();
  ASSERT_EQ(drawn_.size(), 3u);
  EXPECT_EQ(drawn_[0].images.at(1).image->rgb, std::vector<uint8_t>(64 * 80 * 3, 2));
  EXPECT_EQ(drawn_[1].images.at(1).image, drawn_[0].images.at(1).image) << "one picture is decoded once";
  EXPECT_EQ(drawn_[2].images.at(0).image->rgb.front(), 3);
  for (const char* id : {"job_a", "job_b", "job_c"}) EXPECT_EQ(store_.find(id)->status, JobStatus::completed);
  EXPECT_EQ(files(), 0);
}

TEST_F(DrawnReferences, AJobWhoseFileIsGoneOrChangedFailsAlone) {
  jobs_.submit(job_with("job_gone", {png(1)}));
  jobs_.submit(job_with("job_changed", {png(1)}));
  jobs_.submit(job_with("job_whole", {png(1)}));
  std::filesystem::remove(folder_.path() / "references" / "job_gone_0");
  const std::string other = png(2);
  write_file_atomically(folder_.path() / "references" / "job_changed_0",
                        {reinterpret_cast<const uint8_t*>(other.data()), other.size()});
  draw_all();
  EXPECT_EQ(store_.find("job_gone")->status, JobStatus::failed);
  EXPECT_EQ(store_.find("job_changed")->status, JobStatus::failed);
  EXPECT_NE(store_.find("job_changed")->error.find("image[0]"), std::string::npos);
  const std::string gone = store_.find("job_gone")->error;
  EXPECT_NE(gone.find("image[0] is not there any more"), std::string::npos) << gone;
  EXPECT_EQ(gone.find('/'), std::string::npos) << "no client needs to know where files lie";
  EXPECT_EQ(store_.find("job_whole")->status, JobStatus::completed);
  EXPECT_EQ(files(), 0);
}

TEST_F(DrawnReferences, NothingIsLeftOfAJobThatTheQueueHasNoPlaceFor) {
  for (int i = 0; i < 10; ++i) jobs_.submit(job_with("job_" + std::to_string(i), {png(1)}));
  EXPECT_THROW(jobs_.submit(job_with("job_more", {png(1)})), ApiError);
  EXPECT_EQ(files(), 10);
}

}  // namespace
}  // namespace nostos::server
