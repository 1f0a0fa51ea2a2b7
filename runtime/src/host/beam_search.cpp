#include "beam_search.h"

#include "token_choice.h"
#include "token_rules.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace memvp
{
namespace
{

// What counts as never: a beam with this score gives way to every other.
constexpr float kNEVER_SCORE = -1e9F;

struct EndedBeam
{
    double score;
    std::vector<std::int64_t> ids;
};

// The search of one row: ids that go on, with their log probabilities, and those that ended, best first.
struct BeamRow
{
    std::vector<std::vector<std::int64_t>> ids;
    std::vector<float> scores;
    std::vector<EndedBeam> ended;
    bool open = true;
};

// The best of scores that are offered in the order of their indices: at most so many, best first; of equal ones, the
// first. A vocabulary is far larger than what stays.
class Best
{
public:
    explicit Best(std::size_t most)
        : mMost(most)
    {
    }

    void offer(float score, std::size_t index)
    {
        if (mFound.size() < mMost || score > mFound.back().first)
        {
            auto const worse
                = std::find_if(mFound.begin(), mFound.end(), [score](auto const& one) { return one.first < score; });
            mFound.insert(worse, {score, index});
            mFound.resize(std::min(mFound.size(), mMost));
        }
    }

    // Scores with their indices.
    std::vector<std::pair<float, std::size_t>> const& found() const noexcept
    {
        return mFound;
    }

private:
    std::size_t mMost;
    std::vector<std::pair<float, std::size_t>> mFound;
};

// log softmax, in place. Summed in float64, whose order then does not matter: Python has the same scores.
void toLogProbabilities(float* logits, std::size_t count)
{
    auto const highest = *std::max_element(logits, logits + count);
    double sum = 0;
    for (std::size_t index = 0; index < count; ++index)
    {
        logits[index] -= highest;
        sum += std::exp(static_cast<double>(logits[index]));
    }
    auto const all = static_cast<float>(std::log(sum));
    for (std::size_t index = 0; index < count; ++index)
    {
        logits[index] -= all;
    }
}

double scoreOf(float logProbability, std::int64_t written, WritingRules const& rules)
{
    return static_cast<double>(logProbability) / std::pow(static_cast<double>(written), rules.lengthPenalty);
}

// Whether beams of `written` new tokens may still be better than those that ended.
bool goesOn(BeamRow const& row, std::int64_t written, Settings const& settings, WritingRules const& rules)
{
    if (row.ended.size() < row.ids.size())
    {
        return true;
    }
    if (rules.earlyStopping == EarlyStopping::kYES)
    {
        return false;
    }
    bool const farthest = rules.earlyStopping == EarlyStopping::kNEVER && rules.lengthPenalty > 0;
    auto const length = farthest ? settings.maxNewTokens : written;
    return scoreOf(row.scores[0], length, rules) > row.ended.back().score;
}

// Put one token behind each beam of a row, given the log probabilities of all, V from beam to beam; gives the beams
// that those which go on had before.
std::vector<std::size_t> advance(
    BeamRow& row, float const* found, Settings const& settings, EncoderDecoderLimits const& limits)
{
    auto const beams = row.ids.size();
    auto const tokens = static_cast<std::size_t>(limits.pieces);
    auto const written = static_cast<std::int64_t>(row.ids[0].size());
    bool const last = written >= settings.maxNewTokens;
    // Each beam can end in one way: twice as many leave enough to go on.
    Best best(2 * beams);
    for (std::size_t beam = 0; beam < beams; ++beam)
    {
        auto const* const column = found + beam * static_cast<std::size_t>(limits.vocabulary);
        for (std::size_t token = 0; token < tokens; ++token)
        {
            best.offer(column[token] + row.scores[beam], beam * tokens + token);
        }
    }
    struct Candidate
    {
        std::size_t parent;
        std::vector<std::int64_t> ids;
    };
    std::vector<Candidate> candidates;
    Best on(beams);
    for (auto const& [score, at] : best.found())
    {
        Candidate made{at / tokens, row.ids[at / tokens]};
        made.ids.push_back(static_cast<std::int64_t>(at % tokens));
        bool const ends = last || made.ids.back() == limits.eos;
        if (ends && row.open && candidates.size() < beams)
        {
            row.ended.push_back({scoreOf(score, written, limits.rules), {made.ids.begin() + 1, made.ids.end()}});
        }
        on.offer(ends ? score + kNEVER_SCORE : score, candidates.size());
        candidates.push_back(std::move(made));
    }
    std::stable_sort(row.ended.begin(), row.ended.end(),
        [](EndedBeam const& one, EndedBeam const& other) { return one.score > other.score; });
    row.ended.resize(std::min(row.ended.size(), beams));
    std::vector<std::size_t> parents;
    row.ids.clear();
    row.scores.clear();
    for (auto const& [score, which] : on.found())
    {
        parents.push_back(candidates[which].parent);
        row.ids.push_back(std::move(candidates[which].ids));
        row.scores.push_back(score);
    }
    row.open = row.open && !last && goesOn(row, written, settings, limits.rules);
    return parents;
}

} // namespace

std::vector<std::vector<std::int64_t>> beamSearch(
    NextLogits const& nextLogits, std::size_t rows, Settings const& settings, EncoderDecoderLimits const& limits)
{
    auto const beams = static_cast<std::size_t>(settings.beams);
    auto const vocabulary = static_cast<std::size_t>(limits.vocabulary);
    BeamRow first{std::vector<std::vector<std::int64_t>>(beams, {limits.rules.start}),
        std::vector<float>(beams, kNEVER_SCORE), {}, true};
    first.scores[0] = 0;
    std::vector<BeamRow> searches(rows, first);
    std::vector<std::int64_t> origins;
    bool open = true;
    while (open)
    {
        std::vector<std::vector<std::int64_t>> ids;
        for (auto const& row : searches)
        {
            ids.insert(ids.end(), row.ids.begin(), row.ids.end());
        }
        auto logits = nextLogits(ids, origins);
        origins.clear();
        open = false;
        for (std::size_t row = 0; row < rows; ++row)
        {
            for (std::size_t beam = row * beams; beam < (row + 1) * beams; ++beam)
            {
                auto* const column = logits.data() + beam * vocabulary;
                requireFinite(column, vocabulary, kGAVE_LOGITS, limits.precision);
                toLogProbabilities(column, vocabulary);
                applyRules(limits.rules, limits.eos, 1 + settings.maxNewTokens, ids[beam], column, limits.pieces);
            }
            auto const* const found = logits.data() + row * beams * vocabulary;
            for (auto const parent : advance(searches[row], found, settings, limits))
            {
                origins.push_back(static_cast<std::int64_t>(row * beams + parent));
            }
            open = open || searches[row].open;
        }
    }
    std::vector<std::vector<std::int64_t>> best;
    for (auto const& row : searches)
    {
        best.push_back(row.ended[0].ids);
    }
    return best;
}

} // namespace memvp
