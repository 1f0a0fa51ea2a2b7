#include "memvp/errors.h"
#include "json_reader.h"
#include "text.h"
#include "utf8.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace memvp
{
namespace
{

char const* nameOf(Json::Type type)
{
    switch (type)
    {
    case Json::Type::kNULL: return "null";
    case Json::Type::kBOOL: return "a truth value";
    case Json::Type::kINTEGER: return "an integer";
    case Json::Type::kREAL: return "a number";
    case Json::Type::kSTRING: return "a string";
    case Json::Type::kARRAY: return "a list";
    case Json::Type::kOBJECT: return "an object";
    }
    return "";
}

void require(bool good, Json::Type wanted, Json::Type found)
{
    if (!good)
    {
        throw InputError(std::string("the manifest has ") + nameOf(found) + " where " + nameOf(wanted)
            + " should be. Export the bundle again.");
    }
}

// A string in ASCII, as Python's json writes it.
void appendString(std::string& out, std::string_view text)
{
    char const* const digits = "0123456789abcdef";
    auto const unit = [&](std::uint32_t code) {
        out += "\\u";
        for (int shift = 12; shift >= 0; shift -= 4)
        {
            out += digits[code >> shift & 15];
        }
    };
    out += '"';
    for (std::size_t at = 0; at < text.size();)
    {
        auto const code = nextUtf8(text, at);
        auto const place = std::string_view("\"\\\b\f\n\r\t").find(static_cast<char>(code));
        if (code < 0x80 && place != std::string_view::npos)
        {
            out += '\\';
            out += "\"\\bfnrt"[place];
        }
        else if (code >= 0x20 && code < 0x7f)
        {
            out += static_cast<char>(code);
        }
        else if (code < 0x10000)
        {
            unit(code);
        }
        else
        {
            unit(0xd800 + ((code - 0x10000) >> 10));
            unit(0xdc00 + ((code - 0x10000) & 0x3ff));
        }
    }
    out += '"';
}

} // namespace

bool Json::boolean() const
{
    require(mType == Type::kBOOL, Type::kBOOL, mType);
    return mBool;
}

std::int64_t Json::integer() const
{
    require(mType == Type::kINTEGER, Type::kINTEGER, mType);
    using Limits = std::numeric_limits<std::int64_t>;
    std::int64_t value = 0;
    auto const found = std::from_chars(mText.data(), mText.data() + mText.size(), value);
    return found.ec == std::errc() ? value : mText[0] == '-' ? Limits::min() : Limits::max();
}

double Json::real() const
{
    require(isNumber(), Type::kREAL, mType);
    if (mType == Type::kREAL)
    {
        return mReal;
    }
    double value = 0;
    auto const found = std::from_chars(mText.data(), mText.data() + mText.size(), value);
    return found.ec == std::errc() ? value : (mText[0] == '-' ? -1 : 1) * std::numeric_limits<double>::infinity();
}

std::string const& Json::string() const
{
    require(mType == Type::kSTRING, Type::kSTRING, mType);
    return mText;
}

std::vector<Json> const& Json::array() const
{
    require(mType == Type::kARRAY, Type::kARRAY, mType);
    return *mArray;
}

std::vector<Json::Member> const& Json::members() const
{
    require(mType == Type::kOBJECT, Type::kOBJECT, mType);
    return mObject->members;
}

Json const* Json::find(std::string_view name) const
{
    auto const& held = members();
    auto const place = mObject->places.find(std::string(name));
    return place == mObject->places.end() ? nullptr : &held[place->second].second;
}

Json const& Json::at(std::string_view name) const
{
    auto const* const found = find(name);
    if (!found)
    {
        throw InputError("the manifest lacks " + std::string(name) + ". Export the bundle again.");
    }
    return *found;
}

std::string Json::canonical(std::string_view leftOut) const
{
    std::string text;
    write(text, leftOut);
    return text;
}

void Json::write(std::string& text, std::string_view leftOut) const
{
    switch (mType)
    {
    case Type::kNULL: text += "null"; return;
    case Type::kBOOL: text += mBool ? "true" : "false"; return;
    case Type::kINTEGER: text += mText; return;
    case Type::kREAL:
        text += std::isnan(mReal) ? "NaN"
            : std::isinf(mReal)   ? (mReal < 0 ? "-Infinity" : "Infinity")
                                  : realText(mReal);
        return;
    case Type::kSTRING: appendString(text, mText); return;
    case Type::kARRAY:
        text += '[';
        for (auto const& entry : *mArray)
        {
            text += &entry == mArray->data() ? "" : ",";
            entry.write(text);
        }
        text += ']';
        return;
    case Type::kOBJECT: break;
    }
    std::vector<Member const*> sorted;
    for (auto const& member : mObject->members)
    {
        if (leftOut.empty() || member.first != leftOut)
        {
            sorted.push_back(&member);
        }
    }
    // The order of bytes is that of code points.
    std::sort(sorted.begin(), sorted.end(), [](auto const* a, auto const* b) { return a->first < b->first; });
    text += '{';
    for (auto const* const member : sorted)
    {
        text += member == sorted.front() ? "" : ",";
        appendString(text, member->first);
        text += ':';
        member->second.write(text);
    }
    text += '}';
}

std::string Json::repr() const
{
    std::vector<std::string> parts;
    switch (mType)
    {
    case Type::kNULL: return "None";
    case Type::kBOOL: return mBool ? "True" : "False";
    case Type::kINTEGER: return mText;
    case Type::kREAL: return realText(mReal);
    case Type::kSTRING: return reprOf(mText);
    case Type::kARRAY:
        for (auto const& entry : *mArray)
        {
            parts.push_back(entry.repr());
        }
        return "[" + joined(parts) + "]";
    case Type::kOBJECT: break;
    }
    for (auto const& [name, value] : mObject->members)
    {
        parts.push_back(reprOf(name) + ": " + value.repr());
    }
    return "{" + joined(parts) + "}";
}

} // namespace memvp
