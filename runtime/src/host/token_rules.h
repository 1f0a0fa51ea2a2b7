// What a model's generation settings forbid or force while it writes.
#pragma once

#include "memvp/encoder_decoder.h"

#include <cstdint>
#include <vector>

namespace memvp
{

// Make the logits [tokens] of what follows `ids`, which begin with the start token, -inf where it may not come; a
// forced token has 0. The rules go in the order of WritingRules, and a later one undoes what an earlier one forbids. At
// most maxLength ids are written, the start token among them.
void applyRules(WritingRules const& rules, std::int64_t eos, std::int64_t maxLength,
    std::vector<std::int64_t> const& ids, float* logits, std::int64_t tokens);

} // namespace memvp
