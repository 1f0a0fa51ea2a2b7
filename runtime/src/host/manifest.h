// manifest.json: what a bundle says of itself.
#pragma once

#include "memvp/json.h"

#include <filesystem>
#include <string>

namespace memvp
{

// The manifest of a bundle that is called `name` in messages. Throws InputError where it is missing, cut short, edited
// or newer.
Json readManifest(std::filesystem::path const& root, std::string const& name);

} // namespace memvp
