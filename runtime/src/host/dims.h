// Dimensions of tensors as manifests write them: a number, a name, or a sum of names such as
// "past_sequence + sequence", where a name may be there many times: "8*height".
#pragma once

#include "memvp/json.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace memvp
{

using Lengths = std::map<std::string, std::int64_t>;

// The names, and numbers, that a dimension is the sum of: none of a number. What is no such sum is one name.
std::vector<std::string> termsOf(Json const& dim);

// The length of a dimension, nothing where that of one of its names is not known.
std::optional<std::int64_t> lengthOf(Json const& dim, Lengths const& lengths);

// As messages show a dimension and a list of them.
std::string shown(Json const& dim);
std::string shown(std::vector<Json> const& dims);

} // namespace memvp
