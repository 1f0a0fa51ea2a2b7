#include "json_reader.h"

#include "utf8.h"

#include <algorithm>
#include <charconv>
#include <limits>

namespace memvp
{
namespace
{

constexpr int kDEEPEST = 900;
// Python refuses to read longer integers.
constexpr std::size_t kLONGEST_INTEGER = 4300;

// A decimal as the nearest double; beyond all of them it is infinite, or nothing.
double nearest(std::string_view text)
{
    double value = 0;
    auto const found = std::from_chars(text.data(), text.data() + text.size(), value);
    if (found.ec == std::errc::result_out_of_range)
    {
        // Which of the two: by the place of the first digit that is not 0, and the exponent.
        auto const mark = std::min(text.find_first_of("eE"), text.size());
        long exponent = 0;
        auto const sign = mark + 1 < text.size() && text[mark + 1] == '+' ? mark + 2 : mark + 1;
        if (sign < text.size()
            && std::from_chars(text.data() + sign, text.data() + text.size(), exponent).ec != std::errc())
        {
            exponent = text[mark + 1] == '-' ? -1000000000 : 1000000000;
        }
        auto const digits = text.substr(0, mark);
        auto const point = static_cast<long>(std::min(digits.find('.'), digits.size()));
        auto const first = static_cast<long>(std::min(digits.find_first_of("123456789"), digits.size()));
        bool const large = exponent + point - first > 0;
        value = large ? std::numeric_limits<double>::infinity() : 0.0;
        return text[0] == '-' ? -value : value;
    }
    return value;
}

} // namespace

Json Json::parse(std::string_view text)
{
    if (text.substr(0, 3) == "\xef\xbb\xbf")
    {
        text.remove_prefix(3);
    }
    if (auto const fault = utf8Fault(text); !fault.empty())
    {
        throw JsonFault(fault);
    }
    return JsonReader(text).read();
}

Json JsonReader::read()
{
    skipSpace();
    auto const found = value(0);
    skipSpace();
    if (mAt != mText.size())
    {
        fail("Extra data", mAt);
    }
    return found;
}

Json JsonReader::value(int depth)
{
    if (depth > kDEEPEST)
    {
        throw JsonFault("it is nested too deeply");
    }
    Json found;
    if (takes('"'))
    {
        found.mType = Json::Type::kSTRING;
        found.mText = string();
    }
    else if (takes('{'))
    {
        return object(depth);
    }
    else if (takes('['))
    {
        return array(depth);
    }
    else if (takesWord("null"))
    {
        return found;
    }
    else if (takesWord("true") || takesWord("false"))
    {
        found.mType = Json::Type::kBOOL;
        found.mBool = mText[mAt - 2] == 'u';
    }
    else
    {
        return number();
    }
    return found;
}

Json JsonReader::object(int depth)
{
    auto made = std::make_shared<Json::Object>();
    skipSpace();
    while (!(made->members.empty() && takes('}')))
    {
        if (!takes('"'))
        {
            fail("Expecting property name enclosed in double quotes", mAt);
        }
        auto name = string();
        skipSpace();
        if (!takes(':'))
        {
            fail("Expecting ':' delimiter", mAt);
        }
        skipSpace();
        auto held = value(depth + 1);
        auto const [place, added] = made->places.emplace(name, made->members.size());
        if (added)
        {
            made->members.emplace_back(std::move(name), std::move(held));
        }
        else
        {
            made->members[place->second].second = std::move(held);
        }
        skipSpace();
        if (takes('}'))
        {
            break;
        }
        if (!takes(','))
        {
            fail("Expecting ',' delimiter", mAt);
        }
        skipSpace();
    }
    Json found;
    found.mType = Json::Type::kOBJECT;
    found.mObject = std::move(made);
    return found;
}

Json JsonReader::array(int depth)
{
    auto made = std::make_shared<std::vector<Json>>();
    skipSpace();
    while (!(made->empty() && takes(']')))
    {
        made->push_back(value(depth + 1));
        skipSpace();
        if (takes(']'))
        {
            break;
        }
        if (!takes(','))
        {
            fail("Expecting ',' delimiter", mAt);
        }
        skipSpace();
    }
    Json found;
    found.mType = Json::Type::kARRAY;
    found.mArray = std::move(made);
    return found;
}

Json JsonReader::number()
{
    Json found;
    found.mType = Json::Type::kREAL;
    // No JSON, but what Python writes of such numbers.
    for (auto const& [word, sign] : {std::pair("Infinity", 1), std::pair("-Infinity", -1), std::pair("NaN", 0)})
    {
        if (takesWord(word))
        {
            using Limits = std::numeric_limits<double>;
            found.mReal = sign == 0 ? Limits::quiet_NaN() : sign * Limits::infinity();
            return found;
        }
    }
    auto const begin = mAt;
    auto end = mAt + (mAt < mText.size() && mText[mAt] == '-' ? 1 : 0);
    if (!digitAt(end))
    {
        fail("Expecting value", begin);
    }
    auto const skipDigits = [this, &end] {
        while (digitAt(end))
        {
            ++end;
        }
    };
    if (mText[end] == '0')
    {
        ++end;
    }
    else
    {
        skipDigits();
    }
    bool whole = true;
    if (end < mText.size() && mText[end] == '.' && digitAt(end + 1))
    {
        whole = false;
        ++end;
        skipDigits();
    }
    if (end < mText.size() && (mText[end] == 'e' || mText[end] == 'E'))
    {
        bool const sign = end + 1 < mText.size() && (mText[end + 1] == '+' || mText[end + 1] == '-');
        if (digitAt(end + (sign ? 2 : 1)))
        {
            whole = false;
            end += sign ? 2 : 1;
            skipDigits();
        }
    }
    auto const text = mText.substr(begin, end - begin);
    mAt = end;
    if (whole)
    {
        if (text.size() > kLONGEST_INTEGER)
        {
            throw JsonFault("it has an integer of " + std::to_string(text.size()) + " digits");
        }
        found.mType = Json::Type::kINTEGER;
        found.mText = text == "-0" ? "0" : std::string(text);
    }
    else
    {
        found.mReal = nearest(text);
    }
    return found;
}

// Behind the opening quote.
std::string JsonReader::string()
{
    auto const begin = mAt - 1;
    std::string found;
    while (mAt < mText.size())
    {
        auto const byte = static_cast<unsigned char>(mText[mAt]);
        if (byte == '"')
        {
            ++mAt;
            return found;
        }
        if (byte < 0x20)
        {
            fail("Invalid control character at", mAt);
        }
        ++mAt;
        if (byte == '\\')
        {
            appendUtf8(found, escaped(begin));
        }
        else
        {
            found += static_cast<char>(byte);
        }
    }
    fail("Unterminated string starting at", begin);
}

// Behind the backslash.
std::uint32_t JsonReader::escaped(std::size_t begin)
{
    if (mAt == mText.size())
    {
        fail("Unterminated string starting at", begin);
    }
    char const kind = mText[mAt++];
    switch (kind)
    {
    case '"':
    case '\\':
    case '/': return static_cast<std::uint32_t>(kind);
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'u': break;
    default: fail("Invalid \\escape", mAt - 2);
    }
    auto const high = fourDigits();
    if (high >= 0xd800 && high < 0xdc00 && mText.substr(mAt, 2) == "\\u")
    {
        auto const back = mAt;
        mAt += 2;
        auto const low = fourDigits();
        if (low >= 0xdc00 && low < 0xe000)
        {
            return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        }
        mAt = back;
    }
    return high;
}

// Behind "\u".
std::uint32_t JsonReader::fourDigits()
{
    auto const digits = mText.substr(mAt, 4);
    std::uint32_t code = 0;
    auto const found = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    // A string needs its closing quote too.
    if (digits.size() < 4 || mAt + 4 >= mText.size() || found.ptr != digits.data() + 4)
    {
        fail("Invalid \\uXXXX escape", mAt - 1);
    }
    mAt += 4;
    return code;
}

void JsonReader::skipSpace()
{
    while (mAt < mText.size() && std::string_view(" \t\n\r").find(mText[mAt]) != std::string_view::npos)
    {
        ++mAt;
    }
}

bool JsonReader::takes(char wanted)
{
    bool const there = mAt < mText.size() && mText[mAt] == wanted;
    mAt += there ? 1 : 0;
    return there;
}

bool JsonReader::takesWord(std::string_view word)
{
    bool const there = mText.substr(mAt, word.size()) == word;
    mAt += there ? word.size() : 0;
    return there;
}

bool JsonReader::digitAt(std::size_t at) const
{
    return at < mText.size() && mText[at] >= '0' && mText[at] <= '9';
}

void JsonReader::fail(std::string const& what, std::size_t at) const
{
    // Places are counted in code points.
    auto const points = [](std::string_view text) {
        return std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xc0) != 0x80; });
    };
    auto const before = mText.substr(0, at);
    auto const line = std::count(before.begin(), before.end(), '\n') + 1;
    auto const last = before.rfind('\n');
    auto const column = points(last == std::string_view::npos ? before : before.substr(last + 1)) + 1;
    throw JsonFault(what + ": line " + std::to_string(line) + " column " + std::to_string(column) + " (char "
        + std::to_string(points(before)) + ")");
}

} // namespace memvp
