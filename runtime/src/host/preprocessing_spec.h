// A manifest's `preprocessing`, as far as those of pixels and of features are checked alike.
#pragma once

#include "memvp/json.h"

#include <set>
#include <string>
#include <vector>

namespace memvp
{

// Whether it is a finite number.
bool isNumber(Json const& value);

// Throws InputError: the key should be `wanted`.
[[noreturn]] void failNumber(Json const& spec, std::string const& key, std::string const& wanted);

// Throws InputError unless it has these keys and no others.
void checkKeys(Json const& spec, std::set<std::string> const& wanted);

// Throws InputError unless the key has one of these values.
void checkKnown(Json const& spec, std::string const& key, std::vector<std::string> const& known);

// Throws InputError unless the keys are lengths of a tensor.
void checkSides(Json const& spec, std::set<std::string> const& keys);

} // namespace memvp
