// Tests the plans of products on disk, without a GPU.
#include "ops/cuda/plan_store.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "io/folder_cache.h"

namespace nostos::cuda {
namespace {

const Product kProduct{3840, 11520, DType::bf16, DType::bf16, false, false, false};
constexpr const char* kKey = "A GPU, 132 multiprocessors, cuBLASLt 130000, survey 1";

class PlanStoreTest : public testing::Test {
 protected:
  PlanStoreTest() { std::filesystem::remove_all(folder_); }
  ~PlanStoreTest() override { std::filesystem::remove_all(folder_); }

  static ProductPlan plan() {
    ProductPlan made;
    made.algorithms = {{{1, 2, 3, 4, 5, 6, 7, 8}}, {{0xffffffffffffffff, 0, 0, 0, 0, 0, 0, 9}}};
    made.ranked = {{64, {1, 0}}, {4160, {0, 1}}};
    return made;
  }
  /// The only file in the folder.
  std::filesystem::path file() const {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_))
      if (entry.is_regular_file()) return entry.path();
    return {};
  }

  const std::filesystem::path folder_ =
      std::filesystem::path(testing::TempDir()) /
      (std::string("plans_") + testing::UnitTest::GetInstance()->current_test_info()->name());
  const std::shared_ptr<const TextCache> cache_ = FolderCache::in(folder_);
};

TEST_F(PlanStoreTest, GivesBackWhatWasKept) {
  const PlanStore store(cache_, kKey);
  EXPECT_FALSE(store.load(kProduct));
  store.save(kProduct, plan());
  const std::optional<ProductPlan> found = PlanStore(FolderCache::in(folder_), kKey).load(kProduct);
  ASSERT_TRUE(found);
  ASSERT_EQ(found->algorithms.size(), 2u);
  for (size_t i = 0; i < 2; ++i)
    EXPECT_TRUE(std::ranges::equal(found->algorithms[i].data, plan().algorithms[i].data)) << i;
  EXPECT_EQ(found->ranked, plan().ranked);
}

TEST_F(PlanStoreTest, KeepsProductsAndKeysApart) {
  const PlanStore store(cache_, kKey);
  store.save(kProduct, plan());
  for (const auto& change :
       {+[](Product& p) { ++p.in; }, +[](Product& p) { ++p.out; }, +[](Product& p) { p.x = DType::f32; },
        +[](Product& p) { p.y = DType::f32; }, +[](Product& p) { p.bias = true; },
        +[](Product& p) { p.accumulate = true; }, +[](Product& p) { p.weight_is_in_out = true; }}) {
    Product other = kProduct;
    change(other);
    EXPECT_FALSE(store.load(other));
  }
  EXPECT_FALSE(PlanStore(cache_, "A GPU, 114 multiprocessors, cuBLASLt 130000, survey 1").load(kProduct));
  // Another key whose folder has the same name.
  EXPECT_FALSE(PlanStore(cache_, "A GPU_ 132 multiprocessors_ cuBLASLt 130000_ survey 1").load(kProduct));
}

TEST_F(PlanStoreTest, DoesNotTakeWhatIsDamaged) {
  const PlanStore store(cache_, kKey);
  store.save(kProduct, plan());
  std::ifstream in(file());
  const std::string whole{std::istreambuf_iterator<char>(in), {}};
  const auto refuses = [&](const std::string& text) {
    std::ofstream(file()) << text;
    return !store.load(kProduct).has_value();
  };
  EXPECT_FALSE(refuses(whole));
  for (size_t bytes = 0; bytes + 1 < whole.size(); ++bytes) EXPECT_TRUE(refuses(whole.substr(0, bytes))) << bytes;
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = whole;
    return changed.replace(changed.find(from), from.size(), to);
  };
  EXPECT_TRUE(refuses(with("rows 64 1 0", "rows 64 1 1")));
  EXPECT_TRUE(refuses(with("rows 64 1 0", "rows 64 1 2")));
  EXPECT_TRUE(refuses(with("rows 64 1 0", "rows 64 1")));
  EXPECT_TRUE(refuses(with("rows 64 1 0", "rows 64 1 0 x")));
  EXPECT_TRUE(refuses(with("rows 64 1 0", "rows -64 1 0")));
  EXPECT_TRUE(refuses(with("algorithm 1 2", "algorithm 1 x")));
  EXPECT_TRUE(refuses(with("algorithm 1 2", "algorithm 2")));
  EXPECT_TRUE(refuses(with("rows 64", "rods 64")));
}

TEST_F(PlanStoreTest, KeepsNothingWhereItCannot) {
  const PlanStore nowhere(FolderCache::in(""), kKey);
  nowhere.save(kProduct, plan());
  EXPECT_FALSE(nowhere.load(kProduct));
  std::ofstream(folder_) << "a file where the folder would be";
  const PlanStore blocked(cache_, kKey);
  blocked.save(kProduct, plan());
  EXPECT_FALSE(blocked.load(kProduct));
}

}  // namespace
}  // namespace nostos::cuda
