#include "token_rules.h"

#include <algorithm>
#include <limits>

namespace memvp
{
namespace
{

constexpr float kFORBIDDEN = -std::numeric_limits<float>::infinity();

void force(std::int64_t token, float* logits, std::int64_t tokens)
{
    std::fill_n(logits, tokens, kFORBIDDEN);
    logits[token] = 0;
}

// Every id that followed the last size - 1 ids before.
void forbidRepeated(std::vector<std::int64_t> const& ids, std::size_t size, float* logits)
{
    auto const last = ids.end() - static_cast<std::ptrdiff_t>(size - 1);
    for (std::size_t begun = 0; begun + size <= ids.size(); ++begun)
    {
        if (std::equal(last, ids.end(), ids.begin() + static_cast<std::ptrdiff_t>(begun)))
        {
            logits[ids[begun + size - 1]] = kFORBIDDEN;
        }
    }
}

} // namespace

void applyRules(WritingRules const& rules, std::int64_t eos, std::int64_t maxLength,
    std::vector<std::int64_t> const& ids, float* logits, std::int64_t tokens)
{
    auto const length = static_cast<std::int64_t>(ids.size());
    if (rules.noRepeatNgram > 0 && rules.noRepeatNgram <= length)
    {
        forbidRepeated(ids, static_cast<std::size_t>(rules.noRepeatNgram), logits);
    }
    if (length < rules.minLength)
    {
        logits[eos] = kFORBIDDEN;
    }
    if (rules.forcedFirst && length == 1)
    {
        force(*rules.forcedFirst, logits, tokens);
    }
    if (rules.forcedLast && length == maxLength - 1)
    {
        force(*rules.forcedLast, logits, tokens);
    }
}

} // namespace memvp
