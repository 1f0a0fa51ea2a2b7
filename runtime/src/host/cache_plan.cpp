#include "cache_plan.h"

#include "memvp/errors.h"
#include "text.h"

#include <algorithm>
#include <array>
#include <set>

namespace memvp
{
namespace
{

std::string const kPAST = "past_key_values.";
std::string const kPRESENT = "present.";
std::array<std::string, 3> const kKINDS{"concat", "delta", "in_place"};

} // namespace

std::string presentOf(std::string const& input)
{
    return input.compare(0, kPAST.size(), kPAST) == 0 ? kPRESENT + input.substr(kPAST.size()) : "";
}

std::string pastOf(std::string const& output)
{
    return output.compare(0, kPRESENT.size(), kPRESENT) == 0 ? kPAST + output.substr(kPRESENT.size()) : "";
}

CachePlan::CachePlan(Json const& component, std::int64_t batch)
{
    std::set<std::string> outputs;
    for (auto const& port : component.at("outputs").array())
    {
        outputs.insert(port.at("name").string());
    }
    auto const* const cache = component.find("cache");
    std::int64_t layers = 0;
    auto kind = kKINDS[0];
    if (cache && !cache->isNull())
    {
        kind = cache->at("kind").string();
        layers = cache->at("layers").integer();
        mAxis = static_cast<std::size_t>(cache->at("axis").integer());
    }
    std::vector<Json const*> found;
    for (auto const& port : component.at("inputs").array())
    {
        if (outputs.count(presentOf(port.at("name").string())))
        {
            found.push_back(&port);
        }
    }
    if (2 * layers != static_cast<std::int64_t>(found.size()))
    {
        throw InputError("the manifest says " + std::to_string(layers) + " cached layers, the decoder has "
            + std::to_string(found.size()) + " caches.");
    }
    auto const known = std::find(kKINDS.begin(), kKINDS.end(), kind);
    if (known == kKINDS.end())
    {
        throw InputError("a cache of kind " + reprOf(kind) + " cannot be run here; it can be "
            + joined({kKINDS.begin(), kKINDS.end()}, " or ") + ".");
    }
    mKind = static_cast<Kind>(known - kKINDS.begin());
    for (auto const* const port : found)
    {
        auto const& name = port->at("name").string();
        auto const& dims = port->at("dims").array();
        Shape shape;
        bool fixed = mAxis > 0 && mAxis < dims.size();
        for (std::size_t index = 0; index < dims.size(); ++index)
        {
            bool const grows = index == mAxis && mKind != Kind::kIN_PLACE;
            bool const numbered = index == 0 || grows || dims[index].isInteger();
            fixed = fixed && numbered;
            shape.push_back(index == 0 ? batch : grows || !numbered ? 0 : dims[index].integer());
        }
        if (!fixed)
        {
            throw InputError(name + " has dims " + port->at("dims").repr() + ": only batch and axis "
                + std::to_string(mAxis) + " may be dynamic.");
        }
        mPorts.push_back({name, presentOf(name), shape});
    }
}

Shape CachePlan::pastShape(Ports const& ports) const
{
    auto shape = ports.shape;
    if (mKind != Kind::kIN_PLACE)
    {
        shape[mAxis] = mLength;
    }
    return shape;
}

void CachePlan::checkPresent(Ports const& ports, Shape const& present, std::int64_t columns) const
{
    auto expected = ports.shape;
    if (mKind != Kind::kIN_PLACE)
    {
        expected[mAxis] = mKind == Kind::kDELTA ? columns : mLength + columns;
    }
    if (present != expected)
    {
        throw InputError(ports.present + " came back as " + listText(present) + " after " + std::to_string(mLength)
            + " columns of past and " + std::to_string(columns) + " new ones: that is no cache of kind "
            + kKINDS[static_cast<std::size_t>(mKind)] + ".");
    }
    if (mKind == Kind::kIN_PLACE && mLength + columns > expected[mAxis])
    {
        throw InputError("the cache holds " + std::to_string(expected[mAxis]) + " columns: " + std::to_string(mLength)
            + " + " + std::to_string(columns) + " are more.");
    }
}

void CachePlan::grow(std::int64_t columns)
{
    mLength += mPorts.empty() ? 0 : columns;
}

std::vector<std::int64_t> pieces(std::int64_t columns, std::int64_t most)
{
    std::vector<std::int64_t> found;
    if (columns % most)
    {
        found.push_back(columns % most);
    }
    found.insert(found.end(), static_cast<std::size_t>(columns / most), most);
    return found;
}

} // namespace memvp
