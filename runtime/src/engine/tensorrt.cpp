#include "tensorrt.h"

#include "elf.h"
#include "file_view.h"
#include "memvp/errors.h"
#include "text.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <mutex>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace memvp
{
namespace
{

using namespace nvinfer1;

// The last error message in this thread: lanes run side by side, and each has its own reasons.
std::string& lastError()
{
    thread_local std::string message;
    return message;
}

// What it is given, TensorRT holds on to: there is one, and it is never dropped.
class Log final : public ILogger
{
public:
    void log(Severity severity, AsciiChar const* message) noexcept override
    {
        if (severity == Severity::kERROR || severity == Severity::kINTERNAL_ERROR)
        {
            lastError() = message;
        }
    }
};

Log& logger()
{
    static auto* const log = new Log;
    return *log;
}

std::mutex& loading()
{
    static std::mutex mutex;
    return mutex;
}

IRuntime& runtime()
{
    static auto* const made = createInferRuntime(logger());
    if (!made)
    {
        throw EnvironmentLack("TensorRT cannot be started. " + lastError());
    }
    return *made;
}

// A function of a library, which stays open; null, and why, where there is none.
void* functionOf(std::filesystem::path const& library, char const* name, std::string& why)
{
#if defined(_WIN32)
    auto const handle = LoadLibraryW(library.c_str());
    why = handle ? "" : "error " + std::to_string(GetLastError());
    return handle ? reinterpret_cast<void*>(GetProcAddress(handle, name)) : nullptr;
#else
    void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    auto const* const failure = handle ? nullptr : dlerror();
    why = failure ? failure : "";
    return handle ? dlsym(handle, name) : nullptr;
#endif
}

std::vector<std::string> withoutCreator(PluginInfo const& library, std::vector<std::string> const& operators)
{
    std::vector<std::string> missing;
    for (auto const& name : operators)
    {
        if (!getPluginRegistry()->getCreator(name.c_str(), library.version.c_str(), ""))
        {
            missing.push_back(name);
        }
    }
    return missing;
}

// By the name that manifests have.
struct Type
{
    char const* name;
    DataType type;
    std::size_t size;
};
constexpr Type kTYPES[]{{"float32", DataType::kFLOAT, 4}, {"float16", DataType::kHALF, 2},
    {"bfloat16", DataType::kBF16, 2}, {"int64", DataType::kINT64, 8}, {"int32", DataType::kINT32, 4},
    {"int8", DataType::kINT8, 1}, {"bool", DataType::kBOOL, 1}};

} // namespace

std::string tensorrtFlavor()
{
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);)
    {
        if (line.find("libtensorrt_rtx") != std::string::npos)
        {
            return "tensorrt-rtx";
        }
    }
    return "tensorrt";
}

std::string tensorrtVersion(std::string const& like)
{
    auto const parts = std::count(like.begin(), like.end(), '.') + 1;
    auto version = std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "."
        + std::to_string(getInferLibPatchVersion());
    return parts == 3 ? version : version + "." + std::to_string(getInferLibBuildVersion());
}

std::string tensorrtSaid()
{
    return trimmed(lastError());
}

void forgetTensorrtSaid()
{
    lastError().clear();
}

std::shared_ptr<ICudaEngine> loadEngine(std::filesystem::path const& path, bool hostCode)
{
    std::lock_guard<std::mutex> const lock(loading());
    forgetTensorrtSaid();
    FileView const file(path);
    runtime().setEngineHostCodeAllowed(hostCode);
    std::shared_ptr<ICudaEngine> engine(runtime().deserializeCudaEngine(file.bytes().data(), file.bytes().size()));
    if (!engine)
    {
        auto const said = tensorrtSaid();
        throw EnvironmentLack("tensorrt " + tensorrtVersion("") + " cannot load " + path.string() + " on this machine."
            + (said.empty() ? "" : " TensorRT says: " + said));
    }
    return engine;
}

PluginInfo readPluginLibrary(std::filesystem::path const& given)
{
    auto const path = std::filesystem::absolute(given);
    if (auto const wrong = libraryFault(path); !wrong.empty())
    {
        throw InputError(path.string() + " " + wrong + ". " + pluginRemedy());
    }
    std::string why;
    void* const function = functionOf(path, "memvp_plugin_info", why);
    if (!why.empty())
    {
        throw InputError(path.string() + " cannot be loaded on this machine: " + why + ". " + pluginRemedy());
    }
    using Info = char const* (*)();
    auto const* const said = function ? reinterpret_cast<Info>(function)() : nullptr;
    return pluginInfo(path, said ? said : "");
}

void loadPlugin(PluginInfo const& library, std::vector<std::string> const& operators)
{
    std::lock_guard<std::mutex> const lock(loading());
    runtime();
    forgetTensorrtSaid();
    if (!withoutCreator(library, operators).empty())
    {
        getPluginRegistry()->loadLibrary(library.path.string().c_str());
    }
    if (auto const missing = withoutCreator(library, operators); !missing.empty())
    {
        auto const said = tensorrtSaid();
        throw EnvironmentLack("tensorrt " + tensorrtVersion("") + " cannot load the plugin: " + library.path.string()
            + " has no creator of " + joined(missing)
            + ". Build the library for this machine:  memvp-export plugin build"
            + (said.empty() ? "" : " TensorRT says: " + said));
    }
}

std::unique_ptr<IExecutionContext> bareContext(ICudaEngine& engine)
{
    return std::unique_ptr<IExecutionContext>(
        engine.createExecutionContext(ExecutionContextAllocationStrategy::kUSER_MANAGED));
}

#if NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR >= 1

std::size_t activationBytes(ICudaEngine const& engine)
{
    return static_cast<std::size_t>(std::max<std::int64_t>(engine.getDeviceMemorySizeV2(), 0));
}

void giveActivations(IExecutionContext& context, void* memory, std::size_t size)
{
    context.setDeviceMemoryV2(memory, static_cast<std::int64_t>(size));
}

#else

std::size_t activationBytes(ICudaEngine const& engine)
{
    return engine.getDeviceMemorySize();
}

void giveActivations(IExecutionContext& context, void* memory, std::size_t)
{
    context.setDeviceMemory(memory);
}

#endif

std::string typeName(DataType type)
{
    for (auto const& each : kTYPES)
    {
        if (each.type == type)
        {
            return each.name;
        }
    }
    return "";
}

std::size_t typeSize(std::string const& name)
{
    for (auto const& each : kTYPES)
    {
        if (each.name == name)
        {
            return each.size;
        }
    }
    throw InputError("the manifest has a port of dtype " + reprOf(name) + ", which this version does not know.");
}

} // namespace memvp
