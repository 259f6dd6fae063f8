// Owns how the algorithm of a matrix product is chosen: pure functions of what was measured, testable without a GPU.
//
// A picture must not depend on how many ranks made it, so a row of a product must not depend on how many rows are
// computed with it. The library's best algorithm does depend on the number of rows, and two algorithms may sum a row
// in different orders. So all candidates run on the same random data with several numbers of rows, and are grouped by
// the bits that they give: what agrees in every bit of millions of random sums sums in the same order. One group is
// chosen once for a shape, without a look at times, so that every process and rank chooses the same; inside it any
// algorithm may serve any number of rows, and there the fastest is taken.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nostos::cuda {

/// The numbers of rows on which candidates are compared: one, around small tiles, half and all of a 1024x1024
/// picture's tokens.
inline constexpr int64_t kSurveyRows[] = {1, 33, 130, 2080, 4128};

/// Raised when a survey may choose otherwise than before, so that no choice of an older one is taken from a file.
inline constexpr int kSurveyVersion = 1;

/// What one candidate gave on the same random data: one digest a row of the result, for each of kSurveyRows; nothing
/// for a number of rows that it does not serve.
using AlgorithmTrial = std::vector<std::vector<uint64_t>>;

/// Groups the candidates by the bits of their rows: in a group, each row has the same bits whatever the candidate and
/// the number of rows.
/// \return the indices of the largest group that together serves all of kSurveyRows, in ascending order; of equally
/// large ones that of the lowest index that serves the last of kSurveyRows; nothing if there is none.
std::vector<size_t> choose_algorithm_group(std::span<const AlgorithmTrial> trials);

/// \return the number of rows for which an algorithm serving `rows` is timed: the next multiple of 64, the smallest
/// tile, and at most kLargestBucket, beyond which the best no longer changes.
int64_t row_bucket(int64_t rows);
inline constexpr int64_t kLargestBucket = 8256;

}  // namespace nostos::cuda
