// Beam search as transformers' generate() does it without sampling: the ids whose tokens are most probable together,
// given their length, among those that a few beams find.
#pragma once

#include "memvp/encoder_decoder.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace memvp
{

// (B*beams rows of ids, the row of the last call that each goes on from, none at first) -> logits [B*beams,V] of what
// follows.
using NextLogits = std::function<std::vector<float>(
    std::vector<std::vector<std::int64_t>> const& ids, std::vector<std::int64_t> const& origins)>;

// The new token ids of each of B rows, the one that ends them included. Ids behind the tokenizer's are never taken, but
// share the probability.
std::vector<std::vector<std::int64_t>> beamSearch(
    NextLogits const& nextLogits, std::size_t rows, Settings const& settings, EncoderDecoderLimits const& limits);

} // namespace memvp
