// Words of messages, as Python writes the same.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace memvp
{

// "1,234,567", of digits with or without a sign.
std::string withCommas(std::string_view digits);
std::string withCommas(std::uint64_t number);

// A string as Python's repr() shows it: in single quotes unless it has some and no double ones.
std::string reprOf(std::string_view text);

// The shortest decimal that reads as this double, as Python's repr() shows it: "0.1", "1e-05", "100000.0".
std::string realText(double value);

// Without spaces and lines at both ends.
std::string trimmed(std::string const& text);

std::string joined(std::vector<std::string> const& words, std::string_view between = ", ");

// "[2, 3]"
std::string listText(std::vector<std::int64_t> const& numbers);

} // namespace memvp
