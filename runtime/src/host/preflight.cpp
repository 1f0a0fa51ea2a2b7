#include "preflight.h"

#include "memvp/errors.h"
#include "text.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace memvp
{
namespace
{

std::string const kBUILD = "build it here with `memvp-export trt`";
std::string const kTENSORRT = "tensorrt";
std::string const kRTX = "tensorrt-rtx";

std::string productOf(std::string const& name)
{
    return name == kRTX ? "TensorRT-RTX" : "TensorRT";
}

// Whether a module of TensorRT runs on the libraries of TensorRT-RTX, as without a GPU.
bool isPairing(std::string const& target, std::string const& flavor)
{
    return flavor == kRTX && target != kRTX;
}

std::string tensorrtName(std::string const& target, std::string const& flavor, std::string const& version)
{
    if (isPairing(target, flavor))
    {
        return productOf(kTENSORRT) + " " + version + " over the libraries of " + productOf(flavor);
    }
    return productOf(flavor) + " " + version;
}

int majorOf(std::string const& version)
{
    return std::atoi(version.c_str());
}

std::string capability(std::string const& sm)
{
    return sm.empty() ? "" : sm.substr(0, sm.size() - 1) + "." + sm.back();
}

std::string mib(std::uint64_t size)
{
    // Halves go to the even number, as Python writes them.
    auto const whole = std::nearbyint(static_cast<double>(size) / (1 << 20));
    return withCommas(static_cast<std::uint64_t>(whole)) + " MiB";
}

std::string fileProblem(EngineFile const& file)
{
    return file.sha256 == file.listed
        ? ""
        : "the bundle is edited: the engine's bytes are not those of its manifest. Build or copy it again.";
}

std::string tensorrtProblem(Json const& entry, Environment const& here)
{
    auto const& flavor = entry.at("flavor").string();
    auto const* const named = entry.find("target");
    auto const& target = named ? named->string() : flavor;
    auto const& version = entry.at("tensorrt").string();
    auto const wanted = tensorrtName(target, flavor, version);
    // A pairing is no package, and its version is not that of the libraries.
    auto const package = flavor == kRTX ? "tensorrt_rtx" : "tensorrt";
    auto const install = isPairing(target, flavor)
        ? std::string()
        : std::string("install it with  pip install '") + package + "==" + version + "'";
    if (!here.tensorrt)
    {
        return "it was built with " + wanted + ", and there is none here that can be loaded: "
            + (install.empty() ? kBUILD : install);
    }
    // An engine is bound to the exact build of the library.
    if (here.flavor == flavor && *here.tensorrt == version)
    {
        return "";
    }
    auto const found = here.flavor == flavor ? *here.tensorrt : tensorrtName(target, here.flavor, *here.tensorrt);
    return "it was built with " + wanted + ", here is " + found + ": " + (install.empty() ? "" : install + ", or ")
        + kBUILD;
}

std::string gpuProblem(Json const& entry, Environment const& here)
{
    if (!here.gpu)
    {
        return "no GPU can be used here: " + here.whyNoGpu;
    }
    auto const& gpu = *here.gpu;
    if (majorOf(gpu.driver) < majorOf(gpu.runtime))
    {
        return "the driver of " + gpu.name + " supports CUDA " + gpu.driver + ", the CUDA runtime here is "
            + gpu.runtime + ": install a newer driver, or TensorRT for CUDA " + std::to_string(majorOf(gpu.driver));
    }
    auto const& built = entry.at("gpu");
    // Engines that are made without a GPU are finished on the one that runs them.
    if (!built.isNull() && built.at("sm").string() != gpu.sm)
    {
        return "it was built for compute capability " + capability(built.at("sm").string()) + " ("
            + built.at("name").string() + "), " + gpu.name + " has " + capability(gpu.sm) + ": " + kBUILD;
    }
    return "";
}

// As a manifest says it, or "None" as Python shows nothing.
std::string textOf(Json const& value)
{
    return value.isString() ? value.string() : value.repr();
}

// What the manifest says of the code that an engine brings is a claim of whoever made it: it can only rule the engine
// out, before the engine's own bytes are looked at.
std::string hostCodeProblem(Json const& wanted, Environment const& here, EngineFile const& file)
{
    auto const& digest = wanted.at("sha256");
    bool const claimed = here.plugin && digest.isString() && here.plugin->sha256 == digest.string();
    if (file.knownCode.value_or(claimed))
    {
        return "";
    }
    auto const build = here.plugin ? here.plugin->buildId : here.whyNoPlugin.empty() ? "none" : here.whyNoPlugin;
    auto const beside = claimed
        ? std::string("and it is not, or not only, the one installed here, whatever the manifest says")
        : "of build " + textOf(wanted.at("build_id")) + ", which is not the one installed here (" + build + ")";
    return "it carries a plugin library, code for this machine's processor, " + beside
        + ": --trust-bundle runs it where you trust who made the bundle";
}

std::string pluginProblem(Json const& entry, Environment const& here, EngineFile const& file, bool trusted)
{
    auto const& wanted = entry.at("plugin");
    if (wanted.isNull())
    {
        return "";
    }
    if (wanted.at("embedded").boolean())
    {
        return trusted ? "" : hostCodeProblem(wanted, here, file);
    }
    auto const rebuild
        = "`memvp-export plugin build` with the version of memvp-export that made the engine, or " + kBUILD;
    auto const build = textOf(wanted.at("build_id"));
    if (!here.plugin)
    {
        auto const why = here.whyNoPlugin.empty() ? std::string("none is installed")
                                                  : "the one here cannot be used (" + here.whyNoPlugin + ")";
        return "it needs the plugin library of build " + build + ", and " + why + ": `memvp-export plugin build`";
    }
    auto const& installed = *here.plugin;
    if (!wanted.at("build_id").isString() || installed.buildId != build)
    {
        return "it needs the plugin library of build " + build + ", here is " + installed.buildId + ": " + rebuild;
    }
    std::vector<std::string> lacks;
    for (auto const& name : wanted.at("operators").array())
    {
        auto const& known = installed.operators;
        if (std::find(known.begin(), known.end(), name.string()) == known.end())
        {
            lacks.push_back(name.string());
        }
    }
    if (!lacks.empty())
    {
        std::sort(lacks.begin(), lacks.end());
        lacks.erase(std::unique(lacks.begin(), lacks.end()), lacks.end());
        return "it needs the operators " + joined(lacks) + ", which the plugin library here lacks: " + rebuild;
    }
    if (!installed.runsHere)
    {
        return "it needs the plugin library, and the one here has no code for this GPU: `memvp-export plugin build`";
    }
    return "";
}

std::string memoryProblem(Json const& entry, Environment const& here, EngineFile const& file)
{
    auto const* const listed = entry.find("activation");
    auto const activation = listed ? static_cast<std::uint64_t>(std::max<std::int64_t>(listed->integer(), 0)) : 0;
    auto const further = activation > here.activations ? activation - here.activations : 0;
    if (!here.gpu || file.size + further <= here.gpu->free)
    {
        return "";
    }
    auto const beside
        = further ? " and " + mib(further) + (here.activations ? " more" : "") + " for activations" : std::string();
    return "it needs " + mib(file.size) + " for weights" + beside + ", " + here.gpu->name + " has "
        + mib(here.gpu->free) + " free of " + mib(here.gpu->memory)
        + ": end other programs, or build it in a smaller precision or for smaller shapes";
}

} // namespace

std::vector<std::string> problems(Json const& entry, Environment const& here, EngineFile const& file, bool trusted)
{
    std::vector<std::string> found;
    for (auto&& problem : {fileProblem(file), tensorrtProblem(entry, here), gpuProblem(entry, here),
             pluginProblem(entry, here, file, trusted), memoryProblem(entry, here, file)})
    {
        if (!problem.empty())
        {
            found.push_back(problem);
        }
    }
    return found;
}

void requireLoadable(Json const& entry, Environment const& here, EngineFile const& file, bool trusted)
{
    if (auto const damage = fileProblem(file); !damage.empty())
    {
        throw InputError(entry.at("file").string() + ": " + damage);
    }
    if (auto const found = problems(entry, here, file, trusted); !found.empty())
    {
        throw EnvironmentLack(refusal(entry, found));
    }
}

std::string refusal(Json const& entry, std::vector<std::string> const& found)
{
    auto text = entry.at("file").string() + " cannot be loaded here:";
    for (auto const& problem : found)
    {
        text += "\n- " + problem;
    }
    return text;
}

} // namespace memvp
