// UTF-8 with the surrogates that JSON's escapes can write.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace memvp
{

// Append a code point.
void appendUtf8(std::string& text, std::uint32_t code);

// The code point that begins at `at`, which moves behind it. The text must be whole: see `utf8Fault`.
std::uint32_t nextUtf8(std::string_view text, std::size_t& at);

// What is no UTF-8, in the words of Python's codec; empty where it is whole.
std::string utf8Fault(std::string_view text);

} // namespace memvp
