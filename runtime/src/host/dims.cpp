#include "dims.h"

#include "text.h"

#include <algorithm>

namespace memvp
{
namespace
{

// More than any tensor's: a short text can name millions.
constexpr std::size_t kMOST_TERMS = 10'000;

// Whatever the locale says of letters.
bool isDigit(char c)
{
    return c >= '0' && c <= '9';
}

bool isLetter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

bool isDigits(std::string const& text)
{
    return !text.empty() && std::all_of(text.begin(), text.end(), isDigit);
}

bool isName(std::string const& text)
{
    return !text.empty() && isLetter(text[0])
        && std::all_of(text.begin(), text.end(), [](char c) { return isLetter(c) || isDigit(c); });
}

} // namespace

std::vector<std::string> termsOf(Json const& dim)
{
    if (!dim.isString())
    {
        return {};
    }
    auto const& text = dim.string();
    // Most are: every call of an engine asks for those of all its ports.
    if (isName(text))
    {
        return {text};
    }
    std::vector<std::string> found;
    for (std::size_t start = 0; start <= text.size();)
    {
        auto const end = std::min(text.find('+', start), text.size());
        auto part = trimmed(text.substr(start, end - start));
        start = end + 1;
        std::size_t times = 1;
        if (auto const star = part.find('*'); star != std::string::npos)
        {
            auto const count = part.substr(0, star);
            if (!isDigits(count) || count[0] == '0' || count.size() > 4)
            {
                return {text};
            }
            times = std::stoul(count);
            part = part.substr(star + 1);
            if (!isName(part))
            {
                return {text};
            }
        }
        if ((!isName(part) && !isDigits(part)) || found.size() + times > kMOST_TERMS)
        {
            return {text};
        }
        found.insert(found.end(), times, part);
    }
    return found;
}

std::optional<std::int64_t> lengthOf(Json const& dim, Lengths const& lengths)
{
    if (!dim.isString())
    {
        return dim.integer();
    }
    std::int64_t sum = 0;
    for (auto const& term : termsOf(dim))
    {
        auto const known = lengths.find(term);
        if (isDigits(term) && term.size() < 18)
        {
            sum += std::stoll(term);
        }
        else if (known != lengths.end())
        {
            sum += known->second;
        }
        else
        {
            return std::nullopt;
        }
    }
    return sum;
}

std::string shown(Json const& dim)
{
    return dim.isString() ? dim.string() : dim.repr();
}

std::string shown(std::vector<Json> const& dims)
{
    std::vector<std::string> words;
    for (auto const& dim : dims)
    {
        words.push_back(shown(dim));
    }
    return "[" + joined(words) + "]";
}

} // namespace memvp
