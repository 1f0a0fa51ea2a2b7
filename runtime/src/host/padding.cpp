#include "padding.h"

#include <algorithm>

namespace memvp
{

Texts paddedTexts(std::vector<std::vector<std::int64_t>> const& rows, std::size_t longest, std::int64_t pad)
{
    Texts found;
    for (auto const& row : rows)
    {
        found.width = std::max(found.width, std::min(row.size(), longest));
    }
    for (auto const& row : rows)
    {
        auto const held = std::min(row.size(), longest);
        found.ids.insert(found.ids.end(), row.begin(), row.begin() + static_cast<std::ptrdiff_t>(held));
        found.ids.back() = row.back();
        found.ids.insert(found.ids.end(), found.width - held, pad);
        found.mask.insert(found.mask.end(), held, 1);
        found.mask.insert(found.mask.end(), found.width - held, 0);
    }
    return found;
}

} // namespace memvp
