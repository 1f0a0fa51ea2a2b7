// Ids that no table of the model has: on a device nothing would stop their being looked up.
#pragma once

#include "memvp/errors.h"

#include <cstdint>
#include <string>
#include <vector>

namespace memvp
{

// Throws InputError for ids that are none of the tokenizer's.
inline void requireKnown(std::vector<std::vector<std::int64_t>> const& rows, std::int64_t pieces)
{
    for (auto const& row : rows)
    {
        for (auto const id : row)
        {
            if (id < 0 || id >= pieces)
            {
                throw InputError("token " + std::to_string(id) + " is not one of the tokenizer's "
                    + std::to_string(pieces) + ": model and tokenizer differ.");
            }
        }
    }
}

} // namespace memvp
