#include "text.h"

#include <charconv>
#include <cmath>
#include <cstdlib>

namespace memvp
{
namespace
{

char const* const kHEX = "0123456789abcdef";

void appendEscaped(std::string& text, unsigned char byte)
{
    text += "\\x";
    text += kHEX[byte >> 4];
    text += kHEX[byte & 15];
}

} // namespace

std::string withCommas(std::string_view digits)
{
    std::string text(digits);
    std::size_t const first = !text.empty() && text[0] == '-' ? 1 : 0;
    for (std::size_t at = text.size(); at > first + 3; at -= 3)
    {
        text.insert(at - 3, ",");
    }
    return text;
}

std::string withCommas(std::uint64_t number)
{
    return withCommas(std::to_string(number));
}

std::string reprOf(std::string_view text)
{
    bool const single = text.find('\'') != std::string_view::npos;
    char const quote = single && text.find('"') == std::string_view::npos ? '"' : '\'';
    std::string result(1, quote);
    for (std::size_t at = 0; at < text.size(); ++at)
    {
        auto const byte = static_cast<unsigned char>(text[at]);
        unsigned const next = at + 1 < text.size() ? static_cast<unsigned char>(text[at + 1]) : 0u;
        switch (byte)
        {
        case '\n': result += "\\n"; break;
        case '\r': result += "\\r"; break;
        case '\t': result += "\\t"; break;
        case '\\': result += "\\\\"; break;
        default:
            if (byte < 0x20 || byte == 0x7f)
            {
                appendEscaped(result, byte);
            }
            else if (byte == 0xed && next >= 0xa0 && at + 2 < text.size())
            {
                // Half a surrogate pair.
                auto const last = static_cast<unsigned char>(text[at + 2]);
                unsigned const code = 0xd000u | (next & 0x3fu) << 6 | (last & 0x3fu);
                result += "\\u";
                for (int shift = 12; shift >= 0; shift -= 4)
                {
                    result += kHEX[code >> shift & 15u];
                }
                at += 2;
            }
            else
            {
                result += static_cast<char>(byte) == quote ? std::string("\\") + quote : std::string(1, text[at]);
            }
        }
    }
    return result + quote;
}

std::string realText(double value)
{
    if (std::isnan(value))
    {
        return "nan";
    }
    if (std::isinf(value))
    {
        return value < 0 ? "-inf" : "inf";
    }
    char buffer[64];
    auto const end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
    std::string_view const shortest(buffer, static_cast<std::size_t>(end - buffer));
    auto const mark = shortest.find('e');
    int exponent = 0;
    auto const digitsOf = shortest[mark + 1] == '+' ? mark + 2 : mark + 1;
    std::from_chars(shortest.data() + digitsOf, end, exponent);
    std::string const sign = shortest[0] == '-' ? "-" : "";
    std::string digits;
    for (char const c : shortest.substr(sign.size(), mark - sign.size()))
    {
        digits += c == '.' ? "" : std::string(1, c);
    }
    auto const count = static_cast<int>(digits.size());
    if (exponent < -4 || exponent >= 16)
    {
        std::string text = sign + digits[0] + (count > 1 ? "." + digits.substr(1) : "");
        auto const size = std::to_string(std::abs(exponent));
        return text + (exponent < 0 ? "e-" : "e+") + (size.size() < 2 ? "0" : "") + size;
    }
    if (exponent < 0)
    {
        return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    }
    if (count <= exponent + 1)
    {
        return sign + digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
    }
    auto const whole = static_cast<std::size_t>(exponent + 1);
    return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string trimmed(std::string const& text)
{
    auto const* const spaces = " \t\n\r\v\f";
    auto const first = text.find_first_not_of(spaces);
    return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(spaces) - first + 1);
}

std::string joined(std::vector<std::string> const& words, std::string_view between)
{
    std::string text;
    for (std::size_t index = 0; index < words.size(); ++index)
    {
        text += (index ? std::string(between) : "") + words[index];
    }
    return text;
}

std::string listText(std::vector<std::int64_t> const& numbers)
{
    std::vector<std::string> words;
    for (auto const number : numbers)
    {
        words.push_back(std::to_string(number));
    }
    return "[" + joined(words) + "]";
}

} // namespace memvp
