#include "memvp/generate.h"

#include "cache_plan.h"
#include "known_ids.h"
#include "memvp/errors.h"
#include "token_choice.h"

#include <algorithm>
#include <string>

namespace memvp
{
namespace
{

using Ids = std::vector<std::int64_t>;

// Rows of one length, padded on the left.
struct Padded
{
    std::int64_t width = 0;
    // [B,T]
    Ids ids;
    Ids mask;
};

Padded padded(std::vector<Ids> const& rows, std::int64_t pad)
{
    Padded found;
    for (auto const& row : rows)
    {
        found.width = std::max(found.width, static_cast<std::int64_t>(row.size()));
    }
    for (auto const& row : rows)
    {
        auto const before = static_cast<std::size_t>(found.width) - row.size();
        found.ids.insert(found.ids.end(), before, pad);
        found.ids.insert(found.ids.end(), row.begin(), row.end());
        found.mask.insert(found.mask.end(), before, 0);
        found.mask.insert(found.mask.end(), row.size(), 1);
    }
    return found;
}

// One batch on its way through a decoder.
class Rows
{
public:
    Rows(Decoder& decoder, DecoderLimits const& limits, Padded const& padded, std::int64_t batch)
        : mDecoder(decoder)
        , mLimits(limits)
        , mBatch(batch)
        , mWidth(padded.width)
        , mMask(padded.mask)
    {
        mDecoder.begin(batch);
    }

    // Logits [B,K,V] of the columns `asked` [B,K] of the new ones `ids` [B,T], run in pieces that the engine takes.
    std::vector<float> run(Ids const& ids, Ids asked, bool keep)
    {
        auto const rows = static_cast<std::size_t>(mBatch);
        auto const width = ids.size() / rows;
        auto const parts = pieces(static_cast<std::int64_t>(width), mLimits.chunk);
        auto const vocabulary = static_cast<std::size_t>(mLimits.vocabulary);
        std::vector<float> found;
        std::size_t begun = 0;
        for (auto const& columns : parts)
        {
            bool const held = keep || &columns != &parts.back();
            auto call = prepared(ids, width, begun, columns);
            call.keep = held;
            for (auto const column : asked)
            {
                // A piece gives something for columns of others too.
                call.logitsPositions.push_back(std::clamp<std::int64_t>(column, 0, columns - 1));
            }
            auto logits = mDecoder.run(call);
            if (logits.size() != asked.size() * vocabulary)
            {
                throw InputError("the decoder gave " + std::to_string(logits.size()) + " logits for "
                    + std::to_string(asked.size()) + " columns of " + std::to_string(vocabulary) + ".");
            }
            for (std::size_t index = 0; index < asked.size() && !found.empty(); ++index)
            {
                if (asked[index] < 0)
                {
                    auto const at = static_cast<std::ptrdiff_t>(index * vocabulary);
                    std::copy_n(found.begin() + at, vocabulary, logits.begin() + at);
                }
            }
            found = std::move(logits);
            for (auto& column : asked)
            {
                column -= columns;
            }
            mPast += held && mLimits.cached ? columns : 0;
            begun += static_cast<std::size_t>(columns);
        }
        return found;
    }

private:
    DecoderCall prepared(Ids const& ids, std::size_t width, std::size_t begun, std::int64_t columns) const
    {
        DecoderCall call{mBatch, columns, mPast, {}, {}, {}, {}, false};
        for (std::size_t row = 0; row < static_cast<std::size_t>(mBatch); ++row)
        {
            auto const first = ids.begin() + static_cast<std::ptrdiff_t>(row * width + begun);
            call.inputIds.insert(call.inputIds.end(), first, first + columns);
            for (std::int64_t column = 0; column < mPast + columns; ++column)
            {
                // Columns behind the prompt are those of new tokens.
                auto const at = row * static_cast<std::size_t>(mWidth) + static_cast<std::size_t>(column);
                call.attentionMask.push_back(column < mWidth ? mMask[at] : 1);
            }
            for (std::int64_t column = 0; column < columns; ++column)
            {
                call.positionIds.push_back(mPast + column);
            }
        }
        return call;
    }

    Decoder& mDecoder;
    DecoderLimits const& mLimits;
    std::int64_t mBatch;
    // Of the prompts.
    std::int64_t mWidth;
    Ids mMask;
    std::int64_t mPast = 0;
};

} // namespace

std::vector<Answer> generate(
    Decoder& decoder, std::vector<Ids> const& prompts, Settings const& settings, DecoderLimits const& limits)
{
    batchSize(settings, limits);
    requireKnown(prompts, limits.pieces);
    auto const room = static_cast<std::size_t>(limits.maxSequence - settings.maxNewTokens);
    std::vector<Answer> answers(prompts.size());
    std::vector<Ids> rows;
    for (std::size_t row = 0; row < prompts.size(); ++row)
    {
        if (prompts[row].empty())
        {
            throw InputError("the prompt of question " + std::to_string(row) + " is empty.");
        }
        answers[row].truncated = prompts[row].size() > room;
        auto const kept = static_cast<std::ptrdiff_t>(std::min(prompts[row].size(), room));
        rows.emplace_back(prompts[row].begin(), prompts[row].begin() + kept);
    }
    if (rows.empty())
    {
        return answers;
    }
    auto const batch = static_cast<std::int64_t>(rows.size());
    auto const vocabulary = static_cast<std::size_t>(limits.vocabulary);
    auto const prompt = padded(rows, limits.pad);
    Rows running(decoder, limits, prompt, batch);
    auto fresh = prompt.ids;
    std::vector<bool> ended(rows.size(), false);
    for (std::int64_t made = 1;; ++made)
    {
        bool const last = made == settings.maxNewTokens;
        auto const end = static_cast<std::int64_t>(fresh.size()) / batch - 1;
        auto const logits = running.run(fresh, Ids(rows.size(), end), !last);
        fresh.clear();
        for (std::size_t row = 0; row < rows.size(); ++row)
        {
            auto const* const column = logits.data() + row * vocabulary;
            requireFinite(column, static_cast<std::size_t>(limits.pieces), kGAVE_LOGITS);
            fresh.push_back(mostProbable(column, limits.pieces));
            if (settings.keepLogits && !ended[row])
            {
                answers[row].logits.emplace_back(column, column + vocabulary);
            }
            ended[row] = ended[row] || fresh[row] == limits.eos;
            if (!ended[row])
            {
                answers[row].ids.push_back(fresh[row]);
            }
        }
        if (last || std::all_of(ended.begin(), ended.end(), [](bool done) { return done; }))
        {
            return answers;
        }
    }
}

std::vector<float> columnLogits(
    Decoder& decoder, std::vector<Ids> const& rows, Ids const& positions, DecoderLimits const& limits)
{
    requireKnown(rows, limits.pieces);
    auto const prompt = padded(rows, limits.pad);
    auto const batch = rows.size();
    if (batch == 0 || positions.empty() || positions.size() % batch)
    {
        throw InputError("there are " + std::to_string(positions.size()) + " columns for " + std::to_string(batch)
            + " rows: give as many for each row.");
    }
    if (prompt.width < 1 || prompt.width > limits.maxSequence)
    {
        throw InputError("the longest row has " + std::to_string(prompt.width) + " tokens; the decoder takes 1 to "
            + std::to_string(limits.maxSequence) + ".");
    }
    for (auto const position : positions)
    {
        if (position < 0 || position >= prompt.width)
        {
            throw InputError("column " + std::to_string(position) + " is none of 0 to "
                + std::to_string(prompt.width - 1) + ".");
        }
    }
    auto const asked = positions.size() / batch;
    auto const most = static_cast<std::size_t>(limits.positions);
    auto const vocabulary = static_cast<std::size_t>(limits.vocabulary);
    std::vector<float> found(positions.size() * vocabulary);
    for (std::size_t begun = 0; begun < asked; begun += most)
    {
        auto const count = std::min(most, asked - begun);
        Ids part;
        for (std::size_t row = 0; row < batch; ++row)
        {
            auto const first = positions.begin() + static_cast<std::ptrdiff_t>(row * asked + begun);
            part.insert(part.end(), first, first + static_cast<std::ptrdiff_t>(count));
        }
        Rows running(decoder, limits, prompt, static_cast<std::int64_t>(batch));
        auto const logits = running.run(prompt.ids, part, false);
        for (std::size_t row = 0; row < batch; ++row)
        {
            std::copy_n(logits.begin() + static_cast<std::ptrdiff_t>(row * count * vocabulary), count * vocabulary,
                found.begin() + static_cast<std::ptrdiff_t>((row * asked + begun) * vocabulary));
        }
    }
    return found;
}

} // namespace memvp
