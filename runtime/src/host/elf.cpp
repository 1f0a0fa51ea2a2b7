#include "elf.h"

#include "file_view.h"
#include "text.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string_view>
#include <vector>

#if defined(__linux__)
#include <sys/utsname.h>
#endif

namespace memvp
{
namespace
{

std::string_view const kBEGINS("\x7f"
                               "ELF",
    4);

#if defined(__linux__)

// The heads of a 64-bit file and of each of its segments, as <elf.h> lays them out.
constexpr std::size_t kHEAD = 64;
constexpr std::size_t kSEGMENT = 56;
std::map<int, std::string> const kMACHINES{{62, "x86_64"}, {183, "aarch64"}};

template <typename Number>
Number numberAt(std::string_view bytes, std::size_t at)
{
    Number value{};
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

std::string cutShort(std::size_t size, std::uint64_t whole = 0)
{
    return "is cut short: it has " + withCommas(size) + " bytes" + (whole ? " of " + withCommas(whole) : "");
}

std::string thisMachine()
{
    utsname names{};
    return ::uname(&names) == 0 ? names.machine : "";
}

#endif

// Where shared objects for Linux of 64 bits, little-endian, begin. GPU code is ELF too, of another system and kind.
std::vector<std::size_t> sharedObjects(std::string_view bytes)
{
    std::vector<std::size_t> found;
    for (auto at = bytes.find(kBEGINS); at != std::string_view::npos; at = bytes.find(kBEGINS, at + 1))
    {
        auto const head = bytes.substr(at, 18);
        bool const here = head.size() == 18 && head.substr(4, 3) == std::string_view("\x02\x01\x01", 3)
            && (head[7] == 0 || head[7] == 3) && head.substr(16) == std::string_view("\x03\x00", 2)
            && std::all_of(head.begin() + 9, head.begin() + 16, [](char byte) { return byte == 0; });
        if (here)
        {
            found.push_back(at);
        }
    }
    return found;
}

} // namespace

std::string libraryFault(std::filesystem::path const& path)
{
#if defined(__linux__)
    FileView const file(path);
    auto const bytes = file.bytes();
    if (bytes.substr(0, 4) != kBEGINS)
    {
        return bytes.empty() ? "is empty" : "is no shared library";
    }
    if (bytes.size() < kHEAD)
    {
        return cutShort(bytes.size());
    }
    if (numberAt<std::uint16_t>(bytes, 16) != 3)
    {
        return "is no shared library: it is a program, or a part of one";
    }
    auto const here = thisMachine();
    auto const machine = kMACHINES.find(numberAt<std::uint16_t>(bytes, 18));
    bool const known = machine != kMACHINES.end();
    if (bytes.substr(4, 2) != "\x02\x01" || (known && machine->second != here))
    {
        return "is a library for " + (known ? machine->second : "another processor") + ", and this machine is " + here;
    }
    auto const segments = numberAt<std::uint64_t>(bytes, 32);
    auto const sections = numberAt<std::uint64_t>(bytes, 40);
    auto const length = std::uint64_t{numberAt<std::uint16_t>(bytes, 54)};
    auto const count = std::uint64_t{numberAt<std::uint16_t>(bytes, 56)};
    auto const sectionsSize
        = std::uint64_t{numberAt<std::uint16_t>(bytes, 58)} * numberAt<std::uint16_t>(bytes, 60);
    if (length < kSEGMENT || segments > bytes.size() || length * count > bytes.size() - segments)
    {
        return cutShort(bytes.size());
    }
    auto end = sections + sectionsSize;
    for (std::uint64_t index = 0; index < count; ++index)
    {
        auto const at = static_cast<std::size_t>(segments + index * length);
        end = std::max(end, numberAt<std::uint64_t>(bytes, at + 8) + numberAt<std::uint64_t>(bytes, at + 32));
    }
    return end > bytes.size() ? cutShort(bytes.size(), end) : "";
#else
    (void)path;
    return "";
#endif
}

bool holdsOnly(std::filesystem::path const& engine, std::filesystem::path const& library)
{
    FileView const code(library);
    auto expected = sharedObjects(code.bytes());
    if (expected.empty() || expected[0] != 0)
    {
        return false;
    }
    FileView const held(engine);
    auto const start = held.bytes().find(code.bytes());
    if (start == std::string_view::npos)
    {
        return false;
    }
    for (auto& offset : expected)
    {
        offset += start;
    }
    return sharedObjects(held.bytes()) == expected;
}

} // namespace memvp
