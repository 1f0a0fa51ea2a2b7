#include "shapes.h"

#include "memvp/errors.h"
#include "text.h"

#include <algorithm>

namespace memvp
{
namespace
{

Shape numbersOf(Json const& list)
{
    Shape found;
    for (auto const& number : list.array())
    {
        found.push_back(number.integer());
    }
    return found;
}

// Of one input in a profile.
struct Limits
{
    Shape low;
    Shape high;

    explicit Limits(Json const& limits)
        : low(numbersOf(limits.at("min")))
        , high(numbersOf(limits.at("max")))
    {
    }

    bool hold(Shape const& shape) const
    {
        bool good = shape.size() == low.size() && shape.size() == high.size();
        for (std::size_t index = 0; good && index < shape.size(); ++index)
        {
            good = low[index] <= shape[index] && shape[index] <= high[index];
        }
        return good;
    }

    std::string text() const
    {
        std::vector<std::string> words;
        for (std::size_t index = 0; index < std::min(low.size(), high.size()); ++index)
        {
            auto const from = std::to_string(low[index]);
            words.push_back(low[index] == high[index] ? from : from + "-" + std::to_string(high[index]));
        }
        return "[" + joined(words) + "]";
    }
};

Shape const& shapeOf(Shapes const& shapes, std::string const& name)
{
    static Shape const none;
    auto const found = shapes.find(name);
    return found == shapes.end() ? none : found->second;
}

std::string misfits(Json const& profile, Shapes const& shapes)
{
    std::vector<std::string> words;
    for (auto const& [name, held] : profile.at("shapes").members())
    {
        Limits const limits(held);
        auto const& shape = shapeOf(shapes, name);
        if (!limits.hold(shape))
        {
            words.push_back(name + " " + limits.text() + ", not " + listText(shape));
        }
    }
    return joined(words);
}

std::pair<std::int64_t, double> widthOf(Json const& profile)
{
    std::int64_t varying = 0;
    double size = 0;
    for (auto const& [name, held] : profile.at("shapes").members())
    {
        Limits const limits(held);
        double product = 1;
        for (std::size_t index = 0; index < std::min(limits.low.size(), limits.high.size()); ++index)
        {
            varying += limits.low[index] != limits.high[index];
            product *= static_cast<double>(limits.high[index]);
        }
        size += product;
    }
    return {varying, size};
}

// Dimensions as numbers, where they are known.
std::string expected(std::vector<Json> const& dims, Lengths const& lengths)
{
    std::vector<std::string> words;
    for (auto const& dim : dims)
    {
        auto const length = lengthOf(dim, lengths);
        words.push_back(length ? std::to_string(*length) : dim.repr());
    }
    return "[" + joined(words) + "]";
}

} // namespace

void checkDims(Json const& entry, Shapes const& shapes)
{
    auto const& inputs = entry.at("inputs");
    for (auto const& port : inputs.array())
    {
        auto const& name = port.at("name").string();
        auto const& dims = port.at("dims").array();
        if (shapeOf(shapes, name).size() != dims.size())
        {
            throw InputError("the input " + reprOf(name) + " has the shape " + listText(shapeOf(shapes, name))
                + "; it takes " + shown(dims));
        }
    }
    auto const lengths = lengthsOf(inputs, shapes);
    for (auto const& [name, length] : lengths)
    {
        if (length < 0)
        {
            throw InputError("the inputs' shapes leave " + std::to_string(length) + " for " + name
                + ": give them lengths that belong together.");
        }
    }
    for (auto const& port : inputs.array())
    {
        auto const& name = port.at("name").string();
        auto const& dims = port.at("dims").array();
        auto const& shape = shapeOf(shapes, name);
        for (std::size_t index = 0; index < dims.size(); ++index)
        {
            if (lengthOf(dims[index], lengths).value_or(shape[index]) != shape[index])
            {
                throw InputError("the input " + reprOf(name) + " has the shape " + listText(shape)
                    + "; beside the other inputs it takes " + expected(dims, lengths) + ", which is " + shown(dims));
            }
        }
    }
}

void checkColumns(Json const& entry, Shapes const& shapes, std::vector<std::int64_t> const& positions)
{
    auto const& cache = entry.at("cache");
    if (cache.isNull())
    {
        return;
    }
    auto const capacity = cache.at("capacity").integer();
    auto lengths = lengthsOf(entry.at("inputs"), shapes);
    auto const past = lengths["past_sequence"];
    auto const fresh = lengths["sequence"];
    auto const& component = entry.at("component").string();
    if (past + fresh > capacity)
    {
        throw NoProfile(std::to_string(past) + " columns of past and " + std::to_string(fresh)
            + " new ones are more than the " + std::to_string(capacity) + " that the engine of " + component
            + " serves: give shorter texts, or build it with a larger --max-seq.");
    }
    if (cache.at("kind").string() == "concat" || positions.empty())
    {
        return;
    }
    auto const [lowest, highest] = std::minmax_element(positions.begin(), positions.end());
    if (*lowest < 0 || *highest >= capacity)
    {
        throw InputError("the input 'position_ids' has " + std::to_string(*lowest) + " to " + std::to_string(*highest)
            + "; the engine of " + component + " has angles for positions 0 to " + std::to_string(capacity - 1) + ".");
    }
}

Lengths lengthsOf(Json const& ports, Shapes const& shapes)
{
    Lengths found;
    std::vector<std::pair<std::vector<std::string>, std::int64_t>> sums;
    for (auto const& port : ports.array())
    {
        auto const& shape = shapeOf(shapes, port.at("name").string());
        auto const& dims = port.at("dims").array();
        for (std::size_t index = 0; index < std::min(shape.size(), dims.size()); ++index)
        {
            auto const parts = termsOf(dims[index]);
            bool const alike = std::all_of(
                parts.begin(), parts.end(), [&parts](std::string const& part) { return part == parts[0]; });
            if (alike && !parts.empty())
            {
                // What is no multiple leaves a rest, and so another shape than was given.
                found.emplace(parts[0], shape[index] / static_cast<std::int64_t>(parts.size()));
            }
            else if (!parts.empty())
            {
                sums.emplace_back(parts, shape[index]);
            }
        }
    }
    for (auto const& [parts, length] : sums)
    {
        std::vector<std::string> unknown;
        auto rest = length;
        for (auto const& part : parts)
        {
            auto const known = found.find(part);
            if (known == found.end())
            {
                unknown.push_back(part);
            }
            else
            {
                rest -= known->second;
            }
        }
        if (unknown.size() == 1)
        {
            found[unknown[0]] = rest;
        }
    }
    return found;
}

int chooseProfile(Json const& entry, Shapes const& shapes)
{
    auto const& profiles = entry.at("profiles").array();
    int best = -1;
    std::vector<std::string> reasons;
    for (std::size_t index = 0; index < profiles.size(); ++index)
    {
        auto const wrong = misfits(profiles[index], shapes);
        reasons.push_back(profiles[index].at("name").string() + " takes " + wrong);
        if (wrong.empty() && (best < 0 || widthOf(profiles[index]) < widthOf(profiles[static_cast<std::size_t>(best)])))
        {
            best = static_cast<int>(index);
        }
    }
    if (best < 0)
    {
        throw NoProfile("no profile of the engine of " + entry.at("component").string() + " holds these shapes: "
            + joined(reasons, "; ")
            + ". Build one for them: `memvp-export trt` with --max-batch, --max-seq or --min-shapes, --opt-shapes, "
              "--max-shapes.");
    }
    return best;
}

std::map<std::string, Range> builtRanges(Json const& entry)
{
    std::map<std::string, Range> found;
    for (auto const& profile : entry.at("profiles").array())
    {
        for (auto const* const point : {"min", "max"})
        {
            Shapes shapes;
            for (auto const& [name, limits] : profile.at("shapes").members())
            {
                shapes[name] = numbersOf(limits.at(point));
            }
            for (auto const& [dim, length] : lengthsOf(entry.at("inputs"), shapes))
            {
                auto& range = found.emplace(dim, Range{length, length}).first->second;
                range = {std::min(range.lowest, length), std::max(range.highest, length)};
            }
        }
    }
    return found;
}

std::int64_t highest(
    std::map<std::string, Range> const& ranges, std::string const& dim, Json const& entry, std::int64_t least)
{
    auto const found = ranges.find(dim);
    auto const& component = entry.at("component").string();
    if (found == ranges.end())
    {
        throw InputError("the engine of " + component + " has no dimension " + dim + ".");
    }
    if (found->second.highest < least)
    {
        throw InputError("the engine of " + component + " takes at most " + std::to_string(found->second.highest)
            + " of " + dim + ": build it again.");
    }
    return found->second.highest;
}

} // namespace memvp
