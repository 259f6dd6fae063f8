// Computes NVIDIA's fast sine and cosine from the segments of its table.
#include "ops/cpu/cuda_sine.h"

#include <array>
#include <bit>

namespace nostos {
namespace {

/// One of 64 segments of the first quarter turn: sine = (2^12 start + slope x - bend q) 2^-37 with x the place in the
/// segment in 2^-25 turns and q its square as truncated_square() makes it.
struct Segment {
  uint32_t start;
  uint16_t slope;
  uint16_t bend;
};

// The only integers for which every float result of an H100 lies on the polynomial, found from its results alone.
constexpr std::array<Segment, 64> kSegments = {{
    {0, 25737, 14},          {823463, 25730, 48},     {1646436, 25706, 76},    {2468414, 25668, 110},
    {3288906, 25613, 137},   {4107418, 25544, 171},   {4923453, 25459, 201},   {5736526, 25358, 229},
    {6546141, 25243, 262},   {7351816, 25112, 292},   {8153060, 24966, 322},   {8949394, 24805, 352},
    {9740335, 24629, 381},   {10525413, 24438, 410},  {11304145, 24233, 441},  {12076070, 24013, 470},
    {12840725, 23778, 497},  {13597643, 23529, 525},  {14346367, 23266, 553},  {15086452, 22989, 581},
    {15817450, 22698, 608},  {16538916, 22394, 637},  {17250422, 22076, 664},  {17951542, 21744, 688},
    {18641840, 21400, 715},  {19320916, 21042, 738},  {19988350, 20672, 763},  {20643746, 20290, 790},
    {21286703, 19895, 812},  {21916841, 19489, 839},  {22533776, 19070, 859},  {23137138, 18640, 881},
    {23726565, 18199, 904},  {24301698, 17747, 926},  {24862194, 17284, 946},  {25407711, 16811, 967},
    {25937924, 16328, 988},  {26452518, 15834, 1004}, {26951170, 15332, 1025}, {27433593, 14820, 1043},
    {27899488, 14299, 1059}, {28348583, 13769, 1074}, {28780594, 13232, 1093}, {29195273, 12686, 1107},
    {29592364, 12133, 1123}, {29971632, 11572, 1136}, {30332846, 11004, 1148}, {30675788, 10430, 1162},
    {31000253, 9849, 1172},  {31306042, 9263, 1185},  {31592974, 8671, 1196},  {31860879, 8073, 1203},
    {32109590, 7471, 1213},  {32338961, 6864, 1220},  {32548845, 6254, 1230},  {32739132, 5639, 1236},
    {32909694, 5021, 1242},  {33060432, 4400, 1247},  {33191257, 3776, 1250},  {33302087, 3151, 1258},
    {33392857, 2523, 1260},  {33463517, 1893, 1260},  {33514014, 1263, 1263},  {33544326, 632, 1265},
}};

constexpr int kSegmentBits = 17;
constexpr uint32_t kQuarter = 1u << 23;

/// \return x^2 / 2^19 of a 17-bit x as a multiplier gives that adds the partial products' bits from 2^19 on alone.
uint32_t truncated_square(uint32_t x) {
  uint32_t sum = 0;
  for (int i = 0; i < kSegmentBits; ++i) {
    const uint64_t partial = (uint64_t{x} >> (i + 1) << (2 * i + 2)) | (uint64_t{1} << (2 * i));
    if (x >> i & 1) sum += static_cast<uint32_t>(partial >> 19);
  }
  return sum;
}

/// \return `value` rounded towards zero to a float, for 0 and normal positive floats.
float truncated_float(double value) {
  constexpr uint64_t kBelowFloat = (uint64_t{1} << 29) - 1;  // the mantissa bits that a double has and a float has not
  return static_cast<float>(std::bit_cast<double>(std::bit_cast<uint64_t>(value) & ~kBelowFloat));
}

/// \return the sine of `turn` in units of 2^-25 turns.
float table_sine(uint32_t turn) {
  const uint32_t quadrant = turn / kQuarter % 4;
  uint32_t place = turn % kQuarter;
  if (quadrant & 1) place = kQuarter - 1 - place;
  const Segment& segment = kSegments[place >> kSegmentBits];
  const uint32_t x = place & ((1u << kSegmentBits) - 1);
  const uint64_t sum =
      (uint64_t{segment.start} << 12) + uint64_t{segment.slope} * x - uint64_t{segment.bend} * truncated_square(x);
  const float magnitude = truncated_float(static_cast<double>(sum)) * 0x1p-37f;
  return quadrant & 2 ? -magnitude : magnitude;
}

}  // namespace

SinCos cuda_sincos(float angle) {
  // 1 / (2 pi) as a float; its product with a float is exact in double.
  const float turns = truncated_float(static_cast<double>(angle) * static_cast<double>(0.15915494f));
  const uint32_t turn = static_cast<uint32_t>(turns * 0x1p25f);
  return {table_sine(turn), table_sine(turn + kQuarter)};
}

}  // namespace nostos
