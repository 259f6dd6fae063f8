// Implements the drawings of tests on the GPU.
#include "cuda/drawing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "cuda/meeting_link.h"
#include "io/environment.h"
#include "io/folder_cache.h"
#include "parallel/thread_communicator.h"
#include "pipeline/beach_request.h"

namespace nostos::test {
namespace {

constexpr Device kGpu{DeviceKind::cuda, 0};
constexpr int kThreads = 8;  // of the host, which makes captions and noise

}  // namespace

std::filesystem::path source_dir() {
  const char* given = std::getenv("NOSTOS_SOURCE_DIR");
  return given != nullptr ? given : NOSTOS_SOURCE_DIR;
}

std::filesystem::path model_dir(const std::string& name) { return source_dir() / "models" / name; }

GoldenModel embedded_model_here() {
  return {"mini", model_dir("mini"), source_dir() / "tests/data/golden/golden.json"};
}

GenerationRequest beach(int64_t height, int64_t width, int64_t steps, double guidance) {
  return beach_request(height, width, guidance, steps);
}

SharedModel::SharedModel(const std::filesystem::path& folder, bool synthetic, DType dtype)
    : process_(kGpu, kThreads, FolderCache::in(cache_folder())),
      parts_(process_, {folder, dtype, synthetic}),
      alone_({process_, parts_}, nullptr) {}

Generation SharedModel::draw(const GenerationRequest& request, const Parallelism& parallelism) {
  return std::move(draw(std::span(&request, 1), parallelism).front());
}

std::vector<Generation> SharedModel::draw(std::span<const GenerationRequest> requests, const Parallelism& parallelism) {
  return draw(requests, parallelism, [](Communicator&) { return nullptr; });
}

Generation SharedModel::draw_meeting_on_the_gpu(const GenerationRequest& request, const Parallelism& parallelism) {
  Mail mail;
  const auto connect = [&mail](Communicator& hosts) {
    auto link = std::make_unique<MeetingLink>(mail, open_peer_memory(hosts, kGpu), hosts.rank(), kGpu);
    return std::make_unique<NcclCommunicator>(hosts, open_peer_memory(hosts, kGpu), std::move(link));
  };
  return std::move(draw(std::span(&request, 1), parallelism, connect).front());
}

std::vector<Generation> SharedModel::draw(
    std::span<const GenerationRequest> requests, const Parallelism& parallelism,
    const std::function<std::unique_ptr<NcclCommunicator>(Communicator& hosts)>& connect) {
  std::vector<ResolvedRequest> resolved;
  for (const GenerationRequest& request : requests) resolved.push_back(resolve(request, parts_.shape().limits));
  parts_.load(process_, {});
  const auto count = static_cast<size_t>(parallelism.ranks());
  while (count > 1 && ranks_.size() < count)
    ranks_.push_back(std::make_unique<Rank>(RankProcess{process_, parts_}, std::make_unique<Context>(kGpu, 1)));
  // What a rank keeps from one drawing to the next holds for one number of ranks and one plan.
  for (const std::unique_ptr<Rank>& rank : ranks_) rank->memory.release();
  const std::vector<Progress> silent(resolved.size());
  std::vector<Generation> drawn;
  run_thread_ranks(static_cast<int>(count), [&](Communicator& hosts) {
    const auto rank = static_cast<size_t>(hosts.rank());
    Rank& own = count == 1 ? alone_ : *ranks_[rank];
    own.ctx.bind_thread();
    const std::unique_ptr<NcclCommunicator> gpus = connect(hosts);
    std::vector<Generation> made = nostos::draw(own, gpus ? *gpus : hosts, {resolved, silent, parallelism}).made;
    if (rank == 0) drawn = std::move(made);
    if (gpus) own.memory.forget();  // what is recorded goes before the link
  });
  return drawn;
}

void expect_same(const Generation& wanted, const Generation& got, const std::string& what) {
  ASSERT_EQ(wanted.pictures.size(), got.pictures.size()) << what;
  for (size_t i = 0; i < wanted.pictures.size(); ++i) {
    const Picture &a = wanted.pictures[i], &b = got.pictures[i];
    ASSERT_EQ(a.latents.shape(), b.latents.shape()) << what;
    EXPECT_EQ(std::memcmp(a.latents.data<float>(), b.latents.data<float>(), a.latents.size_in_bytes()), 0)
        << what << ": latents differ by " << relative_error(b.latents, a.latents);
    EXPECT_TRUE(a.image == b.image) << what << ": pixels differ";
  }
}

double cosine(ConstView a, ConstView b) {
  double products = 0, a_squares = 0, b_squares = 0;
  for (int64_t i = 0; i < a.elements(); ++i) {
    const double x = static_cast<double>(a.data<float>()[i]), y = static_cast<double>(b.data<float>()[i]);
    products += x * y;
    a_squares += x * x;
    b_squares += y * y;
  }
  return products / std::sqrt(a_squares * b_squares);
}

}  // namespace nostos::test
