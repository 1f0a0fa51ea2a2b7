// Shared libraries as files, looked at before they are opened: the system's loader ends the process on one that was cut
// short. And those that an engine carries: the plugin library that was embedded, and whether there is any other.
#pragma once

#include <filesystem>
#include <string>

namespace memvp
{

// Why this machine cannot open a file as a shared library, in words that follow its name; empty where it may. Where the
// system is not Linux nothing is found.
std::string libraryFault(std::filesystem::path const& path);

// Whether the engine holds the bytes of the library, and no shared object beside it.
bool holdsOnly(std::filesystem::path const& engine, std::filesystem::path const& library);

} // namespace memvp
