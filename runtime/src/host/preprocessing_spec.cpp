#include "preprocessing_spec.h"

#include "memvp/errors.h"
#include "text.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace memvp
{
namespace
{

constexpr int kLARGEST_SIDE = 8192;

} // namespace

bool isNumber(Json const& value)
{
    return value.isNumber() && std::isfinite(value.real());
}

void failNumber(Json const& spec, std::string const& key, std::string const& wanted)
{
    throw InputError("the manifest's preprocessing has " + key + " = " + spec.at(key).repr() + ", which should be "
        + wanted + ".");
}

void checkKeys(Json const& spec, std::set<std::string> const& wanted)
{
    std::map<std::string, std::string> odd;
    for (auto const& [key, value] : spec.members())
    {
        if (!wanted.count(key))
        {
            odd[key] = "unknown";
        }
    }
    for (auto const& key : wanted)
    {
        if (!spec.find(key))
        {
            odd[key] = "missing";
        }
    }
    std::vector<std::string> words;
    for (auto const& [key, state] : odd)
    {
        words.push_back(state + " " + reprOf(key));
    }
    if (!words.empty())
    {
        throw InputError("the manifest's preprocessing cannot be followed: " + joined(words) + ".");
    }
}

void checkKnown(Json const& spec, std::string const& key, std::vector<std::string> const& known)
{
    auto const& value = spec.at(key);
    if (!value.isString() || std::find(known.begin(), known.end(), value.string()) == known.end())
    {
        throw InputError("the manifest's preprocessing has " + key + " = " + value.repr() + "; this version knows "
            + joined(known) + ".");
    }
}

void checkSides(Json const& spec, std::set<std::string> const& keys)
{
    for (auto const& key : keys)
    {
        auto const& value = spec.at(key);
        auto const number = isNumber(value) ? value.real() : 0.0;
        if (number != std::floor(number) || number < 1 || number > kLARGEST_SIDE)
        {
            failNumber(spec, key, "a whole number from 1 to " + std::to_string(kLARGEST_SIDE));
        }
    }
}

} // namespace memvp
