#include "memvp/encoder_decoder.h"

#include "beam_search.h"
#include "known_ids.h"
#include "memvp/errors.h"
#include "padding.h"
#include "token_choice.h"
#include "token_rules.h"

#include <algorithm>
#include <string>

namespace memvp
{
namespace
{

// One batch on its way through a decoder whose texts were read.
class Writing
{
public:
    Writing(Decoder& decoder, EncoderDecoderLimits const& limits, std::int64_t rows)
        : mDecoder(decoder)
        , mLimits(limits)
        , mRows(rows)
    {
        mDecoder.begin(rows);
    }

    // Logits [rows,V] of what follows when each row has got the id of `fresh`.
    std::vector<float> next(std::vector<std::int64_t> const& fresh, bool keep)
    {
        auto logits = mDecoder.run({mRows, 1, mPast, fresh, {}, {}, {}, keep});
        auto const wanted = static_cast<std::size_t>(mRows * mLimits.vocabulary);
        if (logits.size() != wanted)
        {
            throw InputError("the decoder gave " + std::to_string(logits.size()) + " logits for "
                + std::to_string(mRows) + " columns of " + std::to_string(mLimits.vocabulary) + ".");
        }
        mPast += 1;
        return logits;
    }

private:
    Decoder& mDecoder;
    EncoderDecoderLimits const& mLimits;
    std::int64_t mRows;
    std::int64_t mPast = 0;
};

// The most probable token each time: new ids of each row, with the logits of each where they are kept.
void writeGreedily(
    Decoder& decoder, Settings const& settings, EncoderDecoderLimits const& limits, std::vector<Answer>& answers)
{
    Writing writing(decoder, limits, static_cast<std::int64_t>(answers.size()));
    auto const vocabulary = static_cast<std::size_t>(limits.vocabulary);
    std::vector<std::vector<std::int64_t>> ids(answers.size(), {limits.rules.start});
    std::vector<std::int64_t> fresh(answers.size(), limits.rules.start);
    std::vector<bool> ended(answers.size(), false);
    for (std::int64_t made = 1;; ++made)
    {
        bool const last = made == settings.maxNewTokens;
        auto logits = writing.next(fresh, !last);
        for (std::size_t row = 0; row < answers.size(); ++row)
        {
            auto* const column = logits.data() + row * vocabulary;
            requireFinite(column, static_cast<std::size_t>(limits.pieces), kGAVE_LOGITS, limits.precision);
            if (settings.keepLogits && !ended[row])
            {
                answers[row].logits.emplace_back(column, column + vocabulary);
            }
            applyRules(limits.rules, limits.eos, 1 + settings.maxNewTokens, ids[row], column, limits.pieces);
            fresh[row] = mostProbable(column, limits.pieces);
            ids[row].push_back(fresh[row]);
            ended[row] = ended[row] || fresh[row] == limits.eos;
        }
        if (last || std::all_of(ended.begin(), ended.end(), [](bool done) { return done; }))
        {
            break;
        }
    }
    for (std::size_t row = 0; row < answers.size(); ++row)
    {
        answers[row].ids.assign(ids[row].begin() + 1, ids[row].end());
    }
}

void writeWithBeams(
    Decoder& decoder, Settings const& settings, EncoderDecoderLimits const& limits, std::vector<Answer>& answers)
{
    Writing writing(decoder, limits, static_cast<std::int64_t>(answers.size()) * settings.beams);
    auto const nextLogits
        = [&](std::vector<std::vector<std::int64_t>> const& ids, std::vector<std::int64_t> const& origins) {
              if (!origins.empty())
              {
                  decoder.reorder(origins);
              }
              std::vector<std::int64_t> fresh;
              for (auto const& row : ids)
              {
                  fresh.push_back(row.back());
              }
              return writing.next(fresh, static_cast<std::int64_t>(ids[0].size()) < settings.maxNewTokens);
          };
    auto found = beamSearch(nextLogits, answers.size(), settings, limits);
    for (std::size_t row = 0; row < answers.size(); ++row)
    {
        answers[row].ids = std::move(found[row]);
    }
}

} // namespace

std::vector<Answer> generate(Encoder& encoder, Decoder& decoder, std::vector<std::vector<std::int64_t>> const& texts,
    Settings const& settings, EncoderDecoderLimits const& limits)
{
    batchSize(settings, limits);
    requireKnown(texts, limits.pieces);
    std::vector<Answer> answers(texts.size());
    auto const most = static_cast<std::size_t>(limits.maxRead);
    for (std::size_t row = 0; row < texts.size(); ++row)
    {
        if (texts[row].empty())
        {
            throw InputError("the text of question " + std::to_string(row) + " is empty.");
        }
        answers[row].truncated = texts[row].size() > most;
    }
    if (texts.empty())
    {
        return answers;
    }
    auto read = paddedTexts(texts, most, limits.pad);
    encoder.run({static_cast<std::int64_t>(texts.size()), static_cast<std::int64_t>(read.width), std::move(read.ids),
        std::move(read.mask), settings.beams});
    (settings.beams > 1 ? writeWithBeams : writeGreedily)(decoder, settings, limits, answers);
    for (auto& answer : answers)
    {
        answer.ids.erase(std::find(answer.ids.begin(), answer.ids.end(), limits.eos), answer.ids.end());
    }
    return answers;
}

} // namespace memvp
