// Tests the memory that a rank keeps between drawings, and that drawings with the same contexts leave each other no
// trace.
#include "pipeline/rank_memory.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/error.h"
#include "parallel/thread_communicator.h"
#include "pipeline/draw.h"

namespace nostos {
namespace {

auto take_bytes(size_t bytes) {
  return [bytes](Arena&, Arena& rest) { return rest.take(bytes); };
}
const auto any_room = [](size_t) {};

TEST(RankMemory, GrowsAndNeverMovesForWhatFits) {
  RankMemory memory{Device{}};
  std::byte* const first = memory.lay_out({.height = 8}, take_bytes(1000), any_room);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(memory.bytes(), 1024u);
  EXPECT_EQ(memory.lay_out({.height = 8}, take_bytes(1000), any_room), first);
  EXPECT_EQ(memory.lay_out({.height = 4}, take_bytes(100), any_room), first);
  EXPECT_EQ(memory.bytes(), 128u);
  std::byte* const grown = memory.lay_out({.height = 16}, take_bytes(100000), any_room);
  std::memset(grown, 7, 100000);
  EXPECT_EQ(memory.lay_out({.height = 8}, take_bytes(1000), any_room), grown);
}

// A drawing of a client's largest size must not hold its memory for ever.
TEST(RankMemory, ShrinksAfterALongRowOfSmallDrawings) {
  constexpr size_t kLarge = 4 * RankMemory::kSmallBytes, kSmall = kLarge / 8;
  RankMemory memory{Device{}};
  std::vector<size_t> asked;
  const auto draw = [&](size_t bytes, int times) {
    for (int i = 0; i < times; ++i) memory.lay_out({}, take_bytes(bytes), [&](size_t room) { asked.push_back(room); });
  };
  draw(kLarge, 1);
  draw(kSmall, RankMemory::kPatience);
  draw(kLarge, 1);  // so that the row was not long enough
  draw(kSmall, RankMemory::kPatience / 2);
  draw(2 * kSmall, 1);
  draw(kSmall, RankMemory::kPatience / 2 - 1);
  EXPECT_EQ(asked, (std::vector<size_t>{kLarge}));
  draw(kSmall, 1);
  EXPECT_EQ(asked, (std::vector<size_t>{kLarge, 2 * kSmall})) << "to the most of the row";
  draw(2 * kSmall, 1);
  EXPECT_EQ(asked.size(), 2u);
  draw(kLarge, 1);
  EXPECT_EQ(asked.back(), kLarge);
  // A little memory is not worth it.
  draw(RankMemory::kSmallBytes, 1);
  memory.release();
  draw(RankMemory::kSmallBytes, 1);
  const size_t asked_before = asked.size();
  draw(64, 3 * RankMemory::kPatience);
  EXPECT_EQ(asked.size(), asked_before);
}

TEST(RankMemory, HasRoomMadeBeforeItGrowsAlone) {
  RankMemory memory{Device{}};
  std::vector<size_t> asked;
  const auto note = [&](size_t bytes) { asked.push_back(bytes); };
  for (const size_t bytes : {size_t{1024}, size_t{512}, size_t{4096}, size_t{4096}})
    memory.lay_out({}, take_bytes(bytes), note);
  EXPECT_EQ(asked, (std::vector<size_t>{1024, 4096}));
  // What has no room leaves no memory behind, so that less asks anew.
  const auto refuse = [](size_t) { fail(ErrorKind::out_of_memory, "none"); };
  EXPECT_THROW(memory.lay_out({}, take_bytes(8192), refuse), Error);
  memory.lay_out({}, take_bytes(512), note);
  EXPECT_EQ(asked.back(), 512u);
}

TEST(RankMemory, ForgetsWhatATurnedDrawingLeft) {
  RankMemory memory{Device{}};
  memory.lay_out({.height = 8, .width = 12}, take_bytes(1000), any_room);
  memory.left().has_positions = true;
  memory.lay_out({.height = 12, .width = 8}, take_bytes(1000), any_room);
  EXPECT_FALSE(memory.left().has_positions);
}

TEST(RankMemory, ForgetsWhatADrawingOfAnotherShapeLeft) {
  RankMemory memory{Device{}};
  const DrawingShape shape{.height = 8, .width = 8, .caption_tokens = {32, 64}, .pictures = {{}}};
  const auto lay_out = [&](const DrawingShape& of, size_t bytes = 1000) {
    memory.lay_out(of, take_bytes(bytes), any_room);
  };
  lay_out(shape);
  EXPECT_FALSE(memory.left().has_positions);
  memory.left().has_positions = true;
  lay_out(shape);
  EXPECT_TRUE(memory.left().has_positions);
  for (const auto& change : std::initializer_list<void (*)(DrawingShape&)>{
           [](DrawingShape& s) { s.parallelism.ulysses = 2; }, [](DrawingShape& s) { s.rank = 1; },
           [](DrawingShape& s) { s.width = 4; }, [](DrawingShape& s) { s.height = 4; },
           [](DrawingShape& s) { s.images = 2; }, [](DrawingShape& s) { s.lane = {1}; },
           [](DrawingShape& s) { s.weights = 1; },
           [](DrawingShape& s) {
             s.batches = {{0, 1}};
           },
           [](DrawingShape& s) { s.pictures.push_back({}); }, [](DrawingShape& s) { s.steps = 2; },
           [](DrawingShape& s) { s.caption_tokens[1] = 32; }, [](DrawingShape& s) { s.pictures[0].captions[0] = 1; },
           [](DrawingShape& s) { s.pictures[0].guidance.scale = 2; },
           [](DrawingShape& s) { s.pictures[0].guidance.normalization = 1; }}) {
    lay_out(shape);
    memory.left().has_positions = true;
    DrawingShape other = shape;
    change(other);
    lay_out(other);
    EXPECT_FALSE(memory.left().has_positions);
  }
  // The same shape in memory that had to grow, and after all was given back.
  lay_out(shape);
  memory.left().has_positions = true;
  lay_out(shape, 100000);
  EXPECT_FALSE(memory.left().has_positions);
  memory.left().has_positions = true;
  memory.release();
  lay_out(shape);
  EXPECT_FALSE(memory.left().has_positions);
}

// Lanes take turns on a rank. What was recorded for a shape holds while the memory stays in its place; what lies in the
// memory is overwritten.
TEST(RankMemory, KnowsTheShapesOfLate) {
  RankMemory memory{Device{}};
  const auto lay_out = [&](int ranks, size_t bytes = 1000) {
    memory.lay_out({.lane = std::vector<int>(static_cast<size_t>(ranks))}, take_bytes(bytes), any_room);
    return memory.knows_shape();
  };
  const int most = static_cast<int>(RankMemory::kKeptShapes);
  for (int ranks = 1; ranks <= most; ++ranks) EXPECT_FALSE(lay_out(ranks));
  for (int ranks = most; ranks >= 1; --ranks) {
    EXPECT_TRUE(lay_out(ranks)) << ranks;
    EXPECT_FALSE(memory.has_left());
    memory.left().has_positions = true;
  }
  EXPECT_TRUE(lay_out(1));
  EXPECT_TRUE(memory.has_left());
  EXPECT_FALSE(lay_out(most + 1));
  EXPECT_FALSE(lay_out(most)) << "it was the one of the longest time ago";
  EXPECT_TRUE(lay_out(1));
  EXPECT_FALSE(lay_out(1, 100000)) << "the memory has moved";
}

/// A tiny model that any number of ranks draw with, each time with the same contexts.
class Drawer {
 public:
  Drawer() : parts_(process_, {std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/tiny/diffusers_test"}) {
    parts_.load(process_, {});
    for (int i = 0; i < 3; ++i) {
      auto context = i == 0 ? nullptr : std::make_unique<Context>(Device{}, 1);
      ranks_.push_back(std::make_unique<Rank>(RankProcess{process_, parts_}, std::move(context)));
    }
  }

  Generation draw(const GenerationRequest& request, const Parallelism& parallelism) {
    const ResolvedRequest resolved = resolve(request, parts_.shape().limits);
    Generation drawn;
    run_thread_ranks(static_cast<int>(parallelism.ranks()), [&](Communicator& world) {
      const auto rank = static_cast<size_t>(world.rank());
      const std::array<Progress, 1> silent;
      std::vector<Generation> made =
          nostos::draw(*ranks_[rank], world, {std::span(&resolved, 1), silent, parallelism}).made;
      if (rank == 0) drawn = std::move(made.front());
    });
    return drawn;
  }

 private:
  Context process_{{}, 1};
  ModelParts parts_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

TEST(RankMemory, IsGivenBackWhereThePartsTakeTurns) {
  for (const bool takes_turns : {false, true}) {
    Context ctx({}, 1);
    ModelParts parts(ctx, {std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/tiny/diffusers_test"},
                     {.one_drawing = takes_turns});
    if (!takes_turns) parts.load(ctx, {});
    Rank rank({ctx, parts}, nullptr);
    const ResolvedRequest resolved =
        resolve({.height = 16, .width = 16, .num_inference_steps = 1}, parts.shape().limits);
    run_thread_ranks(1, [&](Communicator& world) {
      const std::array<Progress, 1> silent;
      nostos::draw(rank, world, {std::span(&resolved, 1), silent});
    });
    EXPECT_EQ(rank.memory.has_left(), !takes_turns);
  }
}

TEST(RankMemory, DrawingsInTheSameContextsLeaveNoTrace) {
  Drawer warm;
  for (const double guidance : {3, 0}) {
    // Landscape, portrait and landscape again, with each number of ranks.
    std::array<GenerationRequest, 2> requests;
    std::array<Generation, 2> wanted;
    for (size_t turned = 0; turned < 2; ++turned) {
      GenerationRequest& request = requests[turned];
      request.prompt = "two red apples";
      request.height = turned == 0 ? 24 : 32;
      request.width = turned == 0 ? 32 : 24;
      request.num_inference_steps = 2;
      request.guidance_scale = guidance;
      wanted[turned] = Drawer().draw(request, {});
    }
    const std::initializer_list<Parallelism> all{
        {}, {.ulysses = 2}, {.ulysses = 2, .plan = parallel::PlanKind::axis}, {.ulysses = 3}, {.ulysses = 2}, {}};
    for (const Parallelism& parallelism : all) {
      for (const size_t turned : {0, 1, 0}) {
        const Generation got = warm.draw(requests[turned], parallelism);
        const Picture &a = wanted[turned].pictures.at(0), &b = got.pictures.at(0);
        const std::string what = fmt::format("guidance {}, {} ranks, {}x{}", guidance, parallelism.ranks(),
                                             *requests[turned].height, *requests[turned].width);
        ASSERT_EQ(a.latents.shape(), b.latents.shape()) << what;
        EXPECT_EQ(std::memcmp(a.latents.data<float>(), b.latents.data<float>(), a.latents.size_in_bytes()), 0) << what;
        EXPECT_EQ(a.image, b.image) << what;
      }
    }
  }
}

}  // namespace
}  // namespace nostos
