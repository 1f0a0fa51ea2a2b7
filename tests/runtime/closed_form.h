// A decoder that anybody can compute: whole numbers, so that every way through it gives the same floats. See
// closed_form.py, which states it once more.
#pragma once

#include "cache_plan.h"
#include "memvp/errors.h"
#include "memvp/generate.h"
#include "text.h"

#include <string>
#include <utility>
#include <vector>

namespace memvp
{

// What a column leaves in the cache.
inline std::int64_t keyOf(std::int64_t id, std::int64_t position, std::int64_t visual)
{
    return (7 * id + 3 * position + 5 * visual) % 61;
}

// What one visible column of the cache adds.
inline std::int64_t partOf(std::int64_t key, std::int64_t column)
{
    return key * (column % 5 + 1);
}

inline float logitOf(std::int64_t sum, std::int64_t token, std::int64_t visual)
{
    return static_cast<float>((sum * (token + 3) + 11 * visual + token * token) % 97);
}

class ClosedForm final : public Decoder
{
public:
    ClosedForm(Json const& entry, std::vector<std::int64_t> visual)
        : mEntry(entry)
        , mVisual(std::move(visual))
    {
    }

    void begin(std::int64_t batch) override
    {
        mKeys.assign(static_cast<std::size_t>(batch), {});
    }

    std::vector<float> run(DecoderCall const& call) override
    {
        auto const batch = static_cast<std::size_t>(call.batch);
        auto const columns = static_cast<std::size_t>(call.columns);
        auto const width = static_cast<std::size_t>(call.past) + columns;
        auto const asked = call.logitsPositions.size() / batch;
        auto const vocabulary = mEntry.at("outputs").array()[0].at("dims").array().back().integer();
        bool const good = mKeys.size() == batch && mKeys[0].size() + columns == width
            && call.inputIds.size() == batch * columns && call.positionIds.size() == batch * columns
            && call.attentionMask.size() == batch * width;
        if (!good)
        {
            throw InputError("a call with tensors that do not belong together");
        }
        mCalls.push_back(listText({call.columns, call.past, static_cast<std::int64_t>(asked), call.keep}));
        std::vector<float> logits;
        auto const held = mKeys;
        for (std::size_t row = 0; row < batch; ++row)
        {
            auto& keys = mKeys[row];
            for (std::size_t column = 0; column < columns; ++column)
            {
                auto const at = row * columns + column;
                keys.push_back(keyOf(call.inputIds[at], call.positionIds[at], mVisual[row]));
            }
            for (std::size_t index = 0; index < asked; ++index)
            {
                auto const last = call.past + call.logitsPositions[row * asked + index];
                std::int64_t sum = 0;
                for (std::int64_t column = 0; column <= last; ++column)
                {
                    auto const at = static_cast<std::size_t>(column);
                    sum += call.attentionMask[row * width + at] ? partOf(keys[at], column) : 0;
                }
                for (std::int64_t token = 0; token < vocabulary; ++token)
                {
                    logits.push_back(logitOf(sum, token, mVisual[row]));
                }
            }
        }
        if (!call.keep)
        {
            mKeys = held;
        }
        return logits;
    }

    // Of every call: new columns, past, columns asked, whether it is kept.
    std::string calls() const
    {
        return "[" + joined(mCalls) + "]";
    }

private:
    Json mEntry;
    std::vector<std::int64_t> mVisual;
    std::vector<std::vector<std::int64_t>> mKeys;
    std::vector<std::string> mCalls;
};

} // namespace memvp
