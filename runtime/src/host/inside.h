// Paths that a manifest names.
#pragma once

#include <filesystem>
#include <string>

namespace memvp
{

// The path of a file that the manifest of the bundle `root` names; bundle is that folder in messages. Throws InputError
// where the path, or what it links to, lies outside.
std::filesystem::path inside(
    std::filesystem::path const& root, std::string const& bundle, std::string const& name);

// A path in messages: without "." parts and doubled or closing slashes.
std::string shownPath(std::filesystem::path const& path);

} // namespace memvp
