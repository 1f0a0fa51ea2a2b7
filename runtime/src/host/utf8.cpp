#include "utf8.h"

namespace memvp
{
namespace
{

unsigned byteAt(std::string_view text, std::size_t at)
{
    return static_cast<unsigned char>(text[at]);
}

// Bytes of the code point that begins with this one; 0 where none does.
std::size_t lengthOf(unsigned first)
{
    return first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
}

bool continues(unsigned first, unsigned byte, std::size_t place)
{
    if ((byte & 0xc0) != 0x80)
    {
        return false;
    }
    // Longer than needed, or beyond the last code point.
    bool const tooLow = place == 1 && ((first == 0xe0 && byte < 0xa0) || (first == 0xf0 && byte < 0x90));
    return !tooLow && !(place == 1 && first == 0xf4 && byte > 0x8f);
}

std::string faultAt(std::string_view text, std::size_t start, std::size_t end, char const* reason)
{
    char const* const digits = "0123456789abcdef";
    auto const byte = byteAt(text, start);
    std::string const where = end == start + 1
        ? std::string("byte 0x") + digits[byte >> 4] + digits[byte & 15] + " in position " + std::to_string(start)
        : "bytes in position " + std::to_string(start) + "-" + std::to_string(end - 1);
    return "'utf-8' codec can't decode " + where + ": " + reason;
}

} // namespace

void appendUtf8(std::string& text, std::uint32_t code)
{
    auto const byte = [&text](std::uint32_t value) { text += static_cast<char>(value); };
    if (code < 0x80)
    {
        byte(code);
        return;
    }
    if (code < 0x800)
    {
        byte(0xc0 | code >> 6);
    }
    else
    {
        if (code < 0x10000)
        {
            byte(0xe0 | code >> 12);
        }
        else
        {
            byte(0xf0 | code >> 18);
            byte(0x80 | (code >> 12 & 0x3f));
        }
        byte(0x80 | (code >> 6 & 0x3f));
    }
    byte(0x80 | (code & 0x3f));
}

std::uint32_t nextUtf8(std::string_view text, std::size_t& at)
{
    auto const first = byteAt(text, at++);
    auto const length = lengthOf(first);
    std::uint32_t code = length == 1 ? first : first & (0x7fu >> length);
    for (std::size_t place = 1; place < length; ++place)
    {
        code = code << 6 | (byteAt(text, at++) & 0x3f);
    }
    return code;
}

std::string utf8Fault(std::string_view text)
{
    for (std::size_t at = 0; at < text.size();)
    {
        auto const first = byteAt(text, at);
        auto const length = lengthOf(first);
        if (length == 0)
        {
            return faultAt(text, at, at + 1, "invalid start byte");
        }
        for (std::size_t place = 1; place < length; ++place)
        {
            if (at + place >= text.size())
            {
                return faultAt(text, at, text.size(), "unexpected end of data");
            }
            if (!continues(first, byteAt(text, at + place), place))
            {
                return faultAt(text, at, at + place, "invalid continuation byte");
            }
        }
        at += length;
    }
    return "";
}

} // namespace memvp
