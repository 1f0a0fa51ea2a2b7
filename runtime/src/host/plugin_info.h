// What a plugin library says of itself.
#pragma once

#include "preflight.h"

#include <filesystem>
#include <string>
#include <vector>

namespace memvp
{

struct PluginInfo
{
    std::filesystem::path path;
    std::string sha256;
    // ONNX names, and the version that TensorRT knows their creators by.
    std::vector<std::string> operators;
    std::string version;
    // Compute capabilities with machine code, and those whose PTX any later GPU can compile.
    std::vector<std::string> archs;
    std::vector<std::string> ptx;
    std::string buildId;

    // Whether a GPU of this compute capability, such as 89, finds code in the library. Machine code also runs on later
    // minor versions of its major one, embedded GPUs apart; PTX on all later ones.
    bool runsOn(std::string const& capability) const;
};

// Of what the library's function `memvp_plugin_info` returned. Throws InputError where it is of another version.
PluginInfo pluginInfo(std::filesystem::path const& path, std::string const& said);

// The library that is `given`, that MEMVP_PLUGIN names, or that was built last; an empty path where there is none.
// Throws InputError where a file that was named is not there.
std::filesystem::path findPluginLibrary(std::filesystem::path const& given);

// The words that end what is said of a library that cannot be used.
std::string pluginRemedy();

} // namespace memvp
