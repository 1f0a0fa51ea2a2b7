// Rows of token ids -> what a graph that reads texts of several lengths takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace memvp
{

// Texts padded on the right to the longest.
struct Texts
{
    std::size_t width = 0;
    // [B,T]
    std::vector<std::int64_t> ids;
    // [B,T], 0 in padding
    std::vector<std::int64_t> mask;
};

// What has more than `longest` ids, at least 1, loses what is before its last one: the token that ends it stays. No row
// is empty.
Texts paddedTexts(std::vector<std::vector<std::int64_t>> const& rows, std::size_t longest, std::int64_t pad);

} // namespace memvp
