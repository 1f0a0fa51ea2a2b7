// The shapes of a call beside what an engine's ports and profiles take. An entry is an element of the manifest's
// `engines`.
#pragma once

#include "dims.h"
#include "memvp/json.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace memvp
{

using Shape = std::vector<std::int64_t>;
using Shapes = std::map<std::string, Shape>;

// Throws InputError where the inputs' shapes do not have the ports' dims, or contradict one another.
void checkDims(Json const& entry, Shapes const& shapes);

// Throws NoProfile where an engine with a cache gets more columns of past and sequence than it serves, InputError for
// ids of positions that are not in its table of rotary angles. positions are the values of `position_ids`.
void checkColumns(Json const& entry, Shapes const& shapes, std::vector<std::int64_t> const& positions);

// The lengths of the named dimensions: where a name stands alone, else what its sum with known ones leaves for it.
Lengths lengthsOf(Json const& ports, Shapes const& shapes);

// The index of the profile that holds the shapes: the one in which the fewest dimensions vary, then that of the
// smallest shapes. Throws NoProfile with each profile's ranges.
int chooseProfile(Json const& entry, Shapes const& shapes);

struct Range
{
    std::int64_t lowest;
    std::int64_t highest;
};

// Of every dynamic dimension over all profiles of the engine; its graph may take more.
std::map<std::string, Range> builtRanges(Json const& entry);

// The highest length of a dimension among the ranges of an engine. Throws InputError where it has no such dimension, or
// serves fewer than `least` of it.
std::int64_t highest(
    std::map<std::string, Range> const& ranges, std::string const& dim, Json const& entry, std::int64_t least = 0);

} // namespace memvp
