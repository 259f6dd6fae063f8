// Tests that work on several streams is ordered by events, on a stand-in for a GPU that runs it in any other order.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "device/block_stream.h"
#include "device/context.h"
#include "lazy_gpu.h"

namespace nostos {
namespace {

constexpr Device kGpu{DeviceKind::cuda, 0};
constexpr size_t kBlocks = 6;
constexpr size_t kBlockBytes = 2 * BlockStream::kAlignment;
constexpr uint32_t kOrders = 100;

std::byte value_of(size_t block) { return std::byte{static_cast<unsigned char>(block + 1)}; }

/// Blocks whose bytes are all their number and one, come home; and two contexts that may use them, one at a time.
struct Blocks {
  Blocks() {
    for (size_t block = 0; block < kBlocks; ++block) add(block);
    first.synchronize("blocks");
  }

  void add(size_t block) {
    stream.add_block();
    const std::vector<std::byte>& bytes = sources.emplace_back(kBlockBytes, value_of(block));
    places.push_back(stream.add(first, bytes.data(), bytes.size()));
  }
  /// A kernel that uses the block.
  void use(Context& ctx, size_t block) {
    lazy_gpu::enqueue(ctx.stream(), [this, block] {
      const std::byte* const place = places[block];
      used_right += std::all_of(place, place + kBlockBytes, [&](std::byte b) { return b == value_of(block); });
      ++used;
    });
  }
  void visit(Context& ctx, size_t block) {
    stream.begin_visit(ctx, block);
    for (int i = 0; i < 3; ++i) use(ctx, block);
    stream.end_visit(ctx, block);
  }

  Context first{kGpu, 1}, second{kGpu, 1};
  BlockStream stream{kGpu, kBlockBytes};
  std::vector<std::vector<std::byte>> sources;
  std::vector<const std::byte*> places;
  int used = 0, used_right = 0;
};

/// Runs `work` with blocks of its own in many orders, and expects `kernels` kernels to have found what they use.
template <class Work>
void in_any_order(int kernels, const Work& work) {
  for (uint32_t seed = 0; seed < kOrders; ++seed) {
    lazy_gpu::choose_order(seed);
    Blocks blocks;
    std::mt19937 random(seed);
    work(blocks, random);
    blocks.first.synchronize("test");
    blocks.second.synchronize("test");
    ASSERT_EQ(blocks.used, kernels);
    ASSERT_EQ(blocks.used_right, kernels) << "in order " << seed;
  }
}

TEST(Order, KernelsFindTheBlocksThatTheyVisit) {
  in_any_order(90, [](Blocks& blocks, std::mt19937& random) {
    for (int i = 0; i < 30; ++i) blocks.visit(blocks.first, random() % kBlocks);
    EXPECT_EQ(blocks.used, 0) << "the host is ahead of the GPU";
  });
}

// A drawing that is given up in the middle of a block leaves a visit without its end.
TEST(Order, AVisitThatNeverEndsDoesNoHarm) {
  in_any_order(19, [](Blocks& blocks, std::mt19937&) {
    blocks.stream.begin_visit(blocks.first, 2);
    blocks.use(blocks.first, 2);
    blocks.first.abandon_work();
    for (const size_t block : {0, 1, 2, 3, 4, 0}) blocks.visit(blocks.first, block);
  });
}

// What a context has brought, and nobody used, another one replaces: the second copy comes after the first.
TEST(Order, BlocksOfAnotherContextAreReplacedOnceTheyHaveCome) {
  in_any_order(18, [](Blocks& blocks, std::mt19937&) {
    for (const size_t block : {0, 2, 4}) {
      blocks.stream.begin_visit(blocks.first, block);
      blocks.visit(blocks.second, (block + 2) % kBlocks);
      blocks.visit(blocks.second, 1);
      blocks.second.synchronize("test");
      blocks.first.synchronize("test");
    }
  });
}

TEST(BlockVisit, IsNothingForWeightsThatStay) {
  Context ctx(kGpu, 1);
  const BlockVisit of_none;
  of_none.begin(ctx);
  of_none.end(ctx);
  EXPECT_EQ(lazy_gpu::pending(ctx.stream()) + lazy_gpu::pending(ctx.copy_stream()), 0u);
  const auto stream = std::make_shared<BlockStream>(kGpu, kBlockBytes);
  stream->add_block();
  const BlockVisit visit(stream, 0);
  visit.begin(ctx);
  visit.end(ctx);
  EXPECT_GT(lazy_gpu::pending(ctx.stream()), 0u);
  EXPECT_GT(lazy_gpu::pending(ctx.copy_stream()), 0u);
  ctx.synchronize("test");
}

}  // namespace
}  // namespace nostos
