#include "dims.h"

#include "text.h"

#include <algorithm>
#include <cctype>

namespace memvp
{
namespace
{

bool isDigits(std::string const& text)
{
    return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

bool isName(std::string const& text)
{
    auto const letter = [](unsigned char c) { return std::isalpha(c) || c == '_'; };
    auto const inside = [&](unsigned char c) { return letter(c) || std::isdigit(c); };
    return !text.empty() && letter(static_cast<unsigned char>(text[0]))
        && std::all_of(text.begin(), text.end(), inside);
}

std::string trimmed(std::string const& text)
{
    auto const first = text.find_first_not_of(" \t\n\r\v\f");
    auto const last = text.find_last_not_of(" \t\n\r\v\f");
    return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

} // namespace

std::vector<std::string> termsOf(Json const& dim)
{
    if (!dim.isString())
    {
        return {};
    }
    auto const& text = dim.string();
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
        if (!isName(part) && !isDigits(part))
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
