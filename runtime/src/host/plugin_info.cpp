#include "plugin_info.h"

#include "file_view.h"
#include "memvp/errors.h"
#include "sha256.h"
#include "text.h"

#include <algorithm>
#include <cstdlib>
#include <set>

namespace memvp
{
namespace
{

char const* const kVARIABLE = "MEMVP_PLUGIN";
std::set<std::string> const kTEGRA{"87"};

std::vector<std::string> wordsOf(Json const& list)
{
    std::vector<std::string> words;
    for (auto const& word : list.array())
    {
        words.push_back(word.string());
    }
    return words;
}

std::string variable(char const* name)
{
    auto const* const value = std::getenv(name);
    return value ? value : "";
}

} // namespace

std::string pluginRemedy()
{
    return std::string("Build one here with `memvp-export plugin build`, or name another one with ") + kVARIABLE + ".";
}

bool PluginInfo::runsOn(std::string const& capability) const
{
    auto const number = std::atoi(capability.c_str());
    auto const atMost = [number](std::string const& each) { return std::atoi(each.c_str()) <= number; };
    auto const major = [](std::string const& each) { return each.substr(0, each.size() - 1); };
    if (std::find(archs.begin(), archs.end(), capability) != archs.end()
        || std::any_of(ptx.begin(), ptx.end(), atMost))
    {
        return true;
    }
    return !kTEGRA.count(capability) && std::any_of(archs.begin(), archs.end(), [&](std::string const& arch) {
        return !kTEGRA.count(arch) && !arch.empty() && major(arch) == major(capability) && atMost(arch);
    });
}

PluginInfo pluginInfo(std::filesystem::path const& path, std::string const& said)
{
    std::set<std::string> const known{
        "operators", "version", "schema", "types", "archs", "ptx", "build_id", "headers_version", "cuda_version"};
    Json info;
    try
    {
        info = Json::parse(said);
    }
    catch (JsonFault const&)
    {
        info = Json();
    }
    if (!info.is(Json::Type::kOBJECT))
    {
        throw InputError(
            path.string() + " is not a library that `memvp-export plugin build` made. " + pluginRemedy());
    }
    std::set<std::string> unlike = known;
    for (auto const& [name, value] : info.members())
    {
        if (!unlike.erase(name))
        {
            unlike.insert(name);
        }
    }
    if (!unlike.empty())
    {
        throw InputError(path.string() + " was made by another version of this tool: it differs in "
            + joined({unlike.begin(), unlike.end()}) + ". " + pluginRemedy());
    }
    return {path, sha256File(path), wordsOf(info.at("operators")), info.at("version").string(),
        wordsOf(info.at("archs")), wordsOf(info.at("ptx")), info.at("build_id").string()};
}

std::filesystem::path findPluginLibrary(std::filesystem::path const& given)
{
    namespace fs = std::filesystem;
    auto const named = given.empty() ? fs::path(variable(kVARIABLE)) : given;
    if (!named.empty())
    {
        if (!sizeOf(named))
        {
            throw InputError("there is no plugin library " + named.string()
                + (given.empty() ? std::string(" (") + kVARIABLE + ")." : "."));
        }
        return named;
    }
    auto const kept = variable("XDG_CACHE_HOME");
    auto const home = variable("HOME");
    if (kept.empty() && home.empty())
    {
        // Where the process happens to stand, anybody may have put a library, whose code would run.
        return {};
    }
    auto const cache = kept.empty() ? fs::path(home) / ".cache" : fs::path(kept);
    auto const built = cache / "memvp-export" / "plugins" / "libmemvp_plugins.so";
    return sizeOf(built) ? built : fs::path();
}

} // namespace memvp
