// Tests which weights stay on a GPU, over every amount of memory.
#include "pipeline/memory_plan.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace nostos {
namespace {

constexpr size_t kScratch = 50;

/// Two blocks used once a prompt between six of each step, of 10 bytes each.
WeightSizes transformer() {
  WeightSizes made;
  made.fixed = 20;
  for (int i = 0; i < 8; ++i) {
    made.blocks.push_back(10);
    made.uses.push_back(i == 2 || i == 3 ? BlockUse::once_a_prompt : BlockUse::each_step);
  }
  return made;
}

/// Four layers of 5 bytes, and a table.
WeightSizes encoder() {
  return {.fixed = 3,
          .table = 7,
          .blocks = std::vector<size_t>(4, 5),
          .uses = std::vector<BlockUse>(4, BlockUse::once_a_prompt)};
}

/// \return bytes of an encoder with all layers streamed.
size_t smallest_encoder() { return place_part(encoder(), true, 4).device_bytes; }

std::string streamed(const PartMemory& part) {
  std::string text;
  for (const bool streams : part.placement.streamed) text += streams ? 's' : '.';
  return text;
}

MemoryPlan plan(size_t available, bool one_at_a_time = false, MemoryMode mode = MemoryMode::automatic) {
  const WeightSizes text = encoder(), steps = transformer();
  return plan_memory(
      mode, {{DeviceKind::cuda, 3}, {{"text", text}, {"steps", steps, true}}, one_at_a_time, kScratch - 20, 20},
      available);
}

const PartMemory& encoder_of(const MemoryPlan& plan) { return plan.parts.at(0); }
const PartMemory& transformer_of(const MemoryPlan& plan) { return plan.parts.at(1); }

TEST(MemoryPlan, StreamsFirstWhatIsUsedOnceThenEvenly) {
  const WeightSizes sizes = transformer();
  EXPECT_EQ(streamed(place_part(sizes, false, 0)), "........");
  EXPECT_EQ(streamed(place_part(sizes, false, 1)), "..s.....");
  EXPECT_EQ(streamed(place_part(sizes, false, 2)), "..ss....");
  EXPECT_EQ(streamed(place_part(sizes, false, 3)), "..ss...s");
  EXPECT_EQ(streamed(place_part(sizes, false, 4)), "..sss..s");
  EXPECT_EQ(streamed(place_part(sizes, false, 5)), ".sss.s.s");
  EXPECT_EQ(streamed(place_part(sizes, false, 8)), "ssssssss");
}

TEST(MemoryPlan, CountsEveryByteOnce) {
  const WeightSizes sizes = encoder();
  for (const bool table_on_host : {false, true}) {
    for (size_t count = 0; count <= 4; ++count) {
      const PartMemory part = place_part(sizes, table_on_host, count);
      EXPECT_EQ(part.blocks_streamed(), count);
      EXPECT_EQ(part.device_bytes + part.host_bytes, 3u + 7 + 20 + (count > 0 ? BlockStream::kSlots * 5 : 0));
      EXPECT_EQ(part.host_bytes, (table_on_host ? 7 : 0) + 5 * count);
      EXPECT_EQ(part.placement.slot_bytes, count > 0 ? 5u : 0u);
    }
  }
}

// 130 bytes are all that there is: 100 of the transformer, 30 of the encoder.
TEST(MemoryPlan, KeepsAsMuchAsFitsTheTransformerFirst) {
  const auto expect = [](size_t room, const char* encoder_blocks, const char* transformer_blocks) {
    const MemoryPlan made = plan(kScratch + room);
    EXPECT_EQ(streamed(encoder_of(made)), encoder_blocks) << room;
    EXPECT_EQ(streamed(transformer_of(made)), transformer_blocks) << room;
    EXPECT_LE(encoder_of(made).device_bytes + transformer_of(made).device_bytes, room);
  };
  expect(130, "....", "........");
  expect(129, "....", "........");  // the table alone goes
  expect(123, "....", "........");
  expect(122, "sss.", "........");
  expect(113, "ssss", "........");
  expect(112, "sss.", "..ss...s");
  expect(53, "ssss", "ssssssss");
  EXPECT_TRUE(encoder_of(plan(kScratch + 129)).placement.table_on_host);
  EXPECT_FALSE(plan(kScratch + 130).streams());
}

// Of the table the GPU reads a prompt's rows where they are. A layer is copied once a prompt, a block once a step.
TEST(MemoryPlan, WhatCostsLeastLeavesFirst) {
  for (size_t room = 53; room <= 130; ++room) {
    const MemoryPlan made = plan(kScratch + room);
    const bool text_streams = encoder_of(made).blocks_streamed() > 0;
    const bool steps_stream = transformer_of(made).blocks_streamed() > 0;
    EXPECT_EQ(encoder_of(made).placement.table_on_host, room < 130) << room;
    EXPECT_EQ(text_streams, room < 123) << room;
    EXPECT_EQ(steps_stream, room < 100 + smallest_encoder()) << room;
  }
}

TEST(MemoryPlan, UsesNeverLessOfMoreMemory) {
  for (const bool one_at_a_time : {false, true}) {
    size_t last = transformer_of(plan(kScratch + 53, one_at_a_time)).host_bytes;
    for (size_t room = 53; room <= 131; ++room) {
      const MemoryPlan made = plan(kScratch + room, one_at_a_time);
      const size_t host = transformer_of(made).host_bytes + encoder_of(made).host_bytes;
      EXPECT_LE(transformer_of(made).host_bytes, last) << room;
      last = transformer_of(made).host_bytes;
      const size_t encoder_bytes = encoder_of(made).device_bytes, transformer_bytes = transformer_of(made).device_bytes;
      EXPECT_LE(one_at_a_time ? std::max(encoder_bytes, transformer_bytes) : encoder_bytes + transformer_bytes, room);
      EXPECT_EQ(made.streams(), host > 0);
    }
  }
}

TEST(MemoryPlan, PartsThatTakeTurnsShareTheRoom) {
  const MemoryPlan made = plan(kScratch + 100, true);
  EXPECT_FALSE(made.streams());
  const MemoryPlan less = plan(kScratch + 99, true);
  EXPECT_EQ(encoder_of(less).host_bytes, 0u);
  EXPECT_EQ(streamed(transformer_of(less)), "..ss...s");
}

/// A plan with a second part of every step, as a control network is, of 30 bytes in two blocks.
MemoryPlan plan_controlled(bool is_used, size_t available, bool one_at_a_time) {
  const WeightSizes text = encoder(), steps = transformer();
  const WeightSizes control{
      .fixed = 10, .blocks = std::vector<size_t>(2, 10), .uses = std::vector<BlockUse>(2, BlockUse::each_step)};
  return plan_memory(MemoryMode::automatic,
                     {{DeviceKind::cuda, 3},
                      {{"text", text}, {"steps", steps, true}, {"control", control, true, 0, is_used}},
                      one_at_a_time,
                      kScratch - 20,
                      20},
                     available);
}

TEST(MemoryPlan, PartsOfEveryStepAreLoadedTogetherWhereOthersTakeTurns) {
  EXPECT_FALSE(plan_controlled(true, kScratch + 130, true).streams());
  for (size_t room = 70; room < 130; ++room) {
    const MemoryPlan made = plan_controlled(true, kScratch + room, true);
    EXPECT_TRUE(made.streams()) << room;
    EXPECT_LE(made.parts[1].device_bytes + made.parts[2].device_bytes, room);
    EXPECT_EQ(encoder_of(made).host_bytes, 0u) << "it is alone, and has 30 bytes";
  }
  EXPECT_TRUE(plan_controlled(true, kScratch + 159, false).streams());
  EXPECT_FALSE(plan_controlled(true, kScratch + 160, false).streams());
}

TEST(MemoryPlan, PartsOfNoUseHaveNoRoom) {
  for (const bool one_at_a_time : {false, true}) {
    for (size_t room = 53; room <= 131; ++room) {
      const MemoryPlan wanted = plan(kScratch + room, one_at_a_time);
      const MemoryPlan made = plan_controlled(false, kScratch + room, one_at_a_time);
      EXPECT_EQ(transformer_of(made).placement, transformer_of(wanted).placement) << room;
      EXPECT_EQ(encoder_of(made).placement, encoder_of(wanted).placement) << room;
      EXPECT_EQ(made.parts[2].host_bytes, 0u);
    }
  }
  const WeightSizes text = encoder();
  const MemoryNeeds needs{{DeviceKind::cuda, 3}, {{"text", text}, {"control", text, true, 0, false}}, false, 0, 0};
  EXPECT_EQ(describe(resident_plan(needs.parts), needs, 1).find("control"), std::string::npos);
}

/// As plan(), beside adapters of both parts.
MemoryPlan plan_beside(const std::vector<size_t>& adapter_bytes, size_t available, bool one_at_a_time = false,
                       MemoryMode mode = MemoryMode::automatic) {
  const WeightSizes text = encoder(), steps = transformer();
  const MemoryNeeds needs{{DeviceKind::cuda, 3},
                          {{"text", text, false, adapter_bytes[0]}, {"steps", steps, true, adapter_bytes[1]}},
                          one_at_a_time,
                          kScratch - 20,
                          20};
  EXPECT_EQ(can_plan(mode, needs, available), [&] {
    try {
      return has_room(plan_memory(mode, needs, available), needs, available);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
      return false;
    }
  }());
  return plan_memory(mode, needs, available);
}

// What they take, weights make room for: as if there were so much less memory.
TEST(MemoryPlan, CountsWhatAdaptersAdd) {
  for (size_t room = 53; room <= 131; ++room) {
    for (const std::vector<size_t>& bytes : {std::vector<size_t>{0, 12}, {7, 0}, {5, 30}}) {
      const size_t both = bytes[0] + bytes[1];
      EXPECT_EQ(plan_beside(bytes, kScratch + room + both), plan(kScratch + room)) << room;
    }
    // Of parts that take turns each has its own beside it alone.
    const MemoryPlan turns = plan_beside({5, 30}, kScratch + room + 30, true);
    EXPECT_EQ(transformer_of(turns).placement, transformer_of(plan(kScratch + room, true)).placement) << room;
    EXPECT_EQ(encoder_of(turns).host_bytes, 0u) << room;
  }
  EXPECT_FALSE(plan_beside({0, 0}, kScratch + 130).streams());
  EXPECT_TRUE(plan_beside({0, 1}, kScratch + 130).streams());
}

TEST(MemoryPlan, SaysWhatAdaptersTakeWhereTheyDoNotFit) {
  constexpr size_t kGib = size_t{1} << 30;
  const auto failure = [](MemoryMode mode, size_t available) -> std::string {
    try {
      plan_beside({kGib / 4, kGib / 2}, available, false, mode);
    } catch (const Error& error) {
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  };
  const std::string streamed = failure(MemoryMode::automatic, kScratch + 52 + kGib * 3 / 4);
  EXPECT_NE(streamed.find("the adapters 0.75 GiB"), std::string::npos) << streamed;
  EXPECT_NE(streamed.find("fewer or smaller adapters"), std::string::npos) << streamed;
  const std::string resident = failure(MemoryMode::resident, kScratch + 129 + kGib * 3 / 4);
  EXPECT_NE(resident.find("the adapters 0.75 GiB"), std::string::npos) << resident;
}

TEST(MemoryPlan, SaysWhatIsMissing) {
  const auto failure = [](size_t available, MemoryMode mode) -> std::string {
    try {
      plan(available, false, mode);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  };
  EXPECT_NE(failure(kScratch + 129, MemoryMode::resident).find("--memory auto"), std::string::npos);
  EXPECT_NE(failure(kScratch + 52, MemoryMode::offload).find("smaller picture"), std::string::npos);
  EXPECT_NE(failure(10, MemoryMode::automatic).find("out of memory on cuda:3"), std::string::npos);
}

std::string refusal(const MemoryOptions& asked, Device device, int64_t ranks) {
  try {
    resolve_memory(asked, device, ranks);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    return error.what();
  }
  return "";
}

TEST(MemoryOptions, StreamForOneRankOnAGpuAlone) {
  constexpr Device kGpu{DeviceKind::cuda, 1};
  EXPECT_EQ(resolve_memory({MemoryMode::offload}, kGpu, 1).mode, MemoryMode::offload);
  EXPECT_NE(refusal({MemoryMode::offload}, kGpu, 3).find("3 ranks would share cuda:1"), std::string::npos);
  const MemoryOptions shared = resolve_memory({MemoryMode::automatic, true, 5}, kGpu, 3);
  EXPECT_EQ(shared.mode, MemoryMode::resident);
  EXPECT_EQ(shared.limit_bytes, 5u);
  EXPECT_EQ(resolve_memory({MemoryMode::offload}, {}, 3).mode, MemoryMode::offload);
  EXPECT_NE(refusal({.limit_bytes = 5}, {}, 1).find("--memory-limit"), std::string::npos);
}

// Ranks that share a model read its plan while one of them has room made: under any pressure it is the first one, or
// none.
TEST(MemoryPlan, OfRanksThatShareAModelNeverChanges) {
  const auto plan_of = [](int64_t ranks, size_t available) -> std::optional<MemoryPlan> {
    const MemoryOptions options = resolve_memory({MemoryMode::automatic}, {DeviceKind::cuda, 0}, ranks);
    try {
      return plan(available, false, options.mode);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::out_of_memory) << error.what();
      return std::nullopt;
    }
  };
  const MemoryPlan first{{place_part(encoder(), false, 0), place_part(transformer(), false, 0)}};
  size_t refused = 0, streamed_alone = 0;
  for (size_t available = 0; available <= 300; ++available) {
    const std::optional<MemoryPlan> shared = plan_of(3, available), alone = plan_of(1, available);
    EXPECT_EQ(shared.value_or(first), first) << available;
    refused += shared ? 0 : 1;
    streamed_alone += alone && *alone != first ? 1 : 0;
  }
  EXPECT_GT(refused, 0u);
  EXPECT_LT(refused, 300u);
  EXPECT_GT(streamed_alone, 0u);
}

TEST(MemoryPlan, CanBePrinted) {
  constexpr size_t kGib = size_t{1} << 30;
  const WeightSizes text{.fixed = kGib,
                         .table = kGib,
                         .blocks = std::vector<size_t>(2, kGib),
                         .uses = std::vector<BlockUse>(2, BlockUse::once_a_prompt)};
  const MemoryPlan made{{place_part(text, true, 1), place_part(text, false, 0)}};
  const std::vector<PartNeeds> parts{{"text encoder", text}, {"transformer", text, true}};
  EXPECT_EQ(describe(made, {{DeviceKind::cuda, 2}, parts, false, kGib / 2, kGib / 4}, 12 * kGib),
            "memory of cuda:2: 12.00 GiB may be used; text encoder 4.00 GiB and 2.00 GiB in host memory (1 of 2 blocks "
            "streamed), transformer 4.00 GiB, drawing 0.50 GiB, reserve 0.25 GiB");
  const std::vector<PartNeeds> adapted{{"text encoder", text}, {"transformer", text, true, kGib / 2}};
  EXPECT_EQ(describe(resident_plan(adapted), {{DeviceKind::cuda, 2}, adapted, true, 0, 0}, 8 * kGib),
            "memory of cuda:2: 8.00 GiB may be used; text encoder 4.00 GiB, transformer 4.00 GiB, its adapters 0.50 "
            "GiB one after the other, drawing 0.00 GiB, reserve 0.00 GiB");
}

TEST(MemoryMode, IsNamed) {
  EXPECT_EQ(parse_memory_mode("auto"), MemoryMode::automatic);
  EXPECT_EQ(parse_memory_mode("resident"), MemoryMode::resident);
  EXPECT_EQ(parse_memory_mode("offload"), MemoryMode::offload);
  try {
    parse_memory_mode("some");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
  }
}

}  // namespace
}  // namespace nostos
