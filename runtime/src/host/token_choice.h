// The next token, from logits.
#pragma once

#include "finite.h"

#include <algorithm>
#include <cstdint>

namespace memvp
{

inline char const* const kGAVE_LOGITS = "the decoder gave logits";

// The most probable token of one column; of several, the first.
inline std::int64_t mostProbable(float const* logits, std::int64_t tokens)
{
    return std::max_element(logits, logits + tokens) - logits;
}

} // namespace memvp
