// A decoder that anybody can compute: whole numbers, so that every way through it gives the same floats. See
// closed_form.py, which states it once more.
#pragma once

#include "cache_plan.h"
#include "memvp/encoder_decoder.h"
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

// What a column of a text that was read adds to the sums of a decoder behind an encoder.
inline std::int64_t readKeyOf(std::int64_t id, std::int64_t column, std::int64_t visual)
{
    return (id * (column + 1) + 5 * visual) % 61;
}

// What such a decoder gives: less far apart, so that several beams have a chance.
inline float writtenLogitOf(std::int64_t sum, std::int64_t token, std::int64_t visual)
{
    return logitOf(sum, token, visual) / 8;
}

// As a decoder alone, or behind a ClosedFormEncoder, which tells it what was read.
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

    // What was read for each row, and what each is about.
    void setRead(std::vector<std::int64_t> sums, std::vector<std::int64_t> visual)
    {
        mRead = std::move(sums);
        mVisual = std::move(visual);
    }

    std::vector<float> run(DecoderCall const& call) override
    {
        auto const batch = static_cast<std::size_t>(call.batch);
        auto const columns = static_cast<std::size_t>(call.columns);
        auto const width = static_cast<std::size_t>(call.past) + columns;
        bool const alone = mRead.empty();
        auto const asked = alone ? call.logitsPositions.size() / batch : columns;
        auto const vocabulary = mEntry.at("outputs").array()[0].at("dims").array().back().integer();
        bool const good = mKeys.size() == batch && mKeys[0].size() + columns == width
            && call.inputIds.size() == batch * columns && call.positionIds.size() == alone * batch * columns
            && call.attentionMask.size() == alone * batch * width && (alone || mRead.size() == batch);
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
                auto const position = call.past + static_cast<std::int64_t>(column);
                keys.push_back(keyOf(call.inputIds[at], alone ? call.positionIds[at] : position, mVisual[row]));
            }
            for (std::size_t index = 0; index < asked; ++index)
            {
                auto const of = alone ? call.logitsPositions[row * asked + index] : static_cast<std::int64_t>(index);
                std::int64_t sum = alone ? 0 : mRead[row];
                for (std::int64_t column = 0; column <= call.past + of; ++column)
                {
                    auto const at = static_cast<std::size_t>(column);
                    bool const visible = !alone || call.attentionMask[row * width + at];
                    sum += visible ? partOf(keys[at], column) : 0;
                }
                for (std::int64_t token = 0; token < vocabulary; ++token)
                {
                    logits.push_back((alone ? logitOf : writtenLogitOf)(sum, token, mVisual[row]));
                }
            }
        }
        if (!call.keep)
        {
            mKeys = held;
        }
        return logits;
    }

    void reorder(std::vector<std::int64_t> const& rows) override
    {
        auto const held = mKeys;
        for (std::size_t row = 0; row < rows.size(); ++row)
        {
            mKeys[row] = held.at(static_cast<std::size_t>(rows[row]));
        }
    }

    // Of every call: new columns, past, columns asked, whether it is kept.
    std::string calls() const
    {
        return "[" + joined(mCalls) + "]";
    }

private:
    Json mEntry;
    std::vector<std::int64_t> mVisual;
    std::vector<std::int64_t> mRead;
    std::vector<std::vector<std::int64_t>> mKeys;
    std::vector<std::string> mCalls;
};

class ClosedFormEncoder final : public Encoder
{
public:
    ClosedFormEncoder(ClosedForm& decoder, std::vector<std::int64_t> visual)
        : mDecoder(decoder)
        , mVisual(std::move(visual))
    {
    }

    void run(EncoderCall const& call) override
    {
        auto const columns = static_cast<std::size_t>(call.columns);
        std::vector<std::int64_t> sums;
        std::vector<std::int64_t> visual;
        for (std::size_t row = 0; row < static_cast<std::size_t>(call.batch); ++row)
        {
            std::int64_t sum = 0;
            for (std::size_t column = 0; column < columns; ++column)
            {
                auto const at = row * columns + column;
                auto const key = readKeyOf(call.inputIds.at(at), static_cast<std::int64_t>(column), mVisual[row]);
                sum += call.attentionMask.at(at) * key;
            }
            sums.insert(sums.end(), static_cast<std::size_t>(call.copies), sum);
            visual.insert(visual.end(), static_cast<std::size_t>(call.copies), mVisual[row]);
        }
        mDecoder.setRead(std::move(sums), std::move(visual));
    }

private:
    ClosedForm& mDecoder;
    std::vector<std::int64_t> mVisual;
};

} // namespace memvp
