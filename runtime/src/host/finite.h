// What a half type that overflowed leaves is no answer.
#pragma once

#include "memvp/errors.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

namespace memvp
{

// Throws VerdictError, which begins with `gave`, unless all values are finite; precision is that of the model, where it
// is known.
inline void requireFinite(
    float const* values, std::size_t count, char const* gave, std::string const& precision = {})
{
    if (!std::all_of(values, values + count, [](float value) { return std::isfinite(value); }))
    {
        if (precision == "fp32")
        {
            throw VerdictError(std::string(gave)
                + " that are not finite, in float32, the widest precision: values of this input are too large, or "
                  "those of the model are damaged. Run `memvp-export check` on the bundle: it tells which.");
        }
        throw VerdictError(std::string(gave)
            + " that are not finite: its precision overflows on this input. Run `memvp-export check` on the bundle, or "
              "export it in another precision.");
    }
}

} // namespace memvp
