#include "choice.h"
#include "cuda.h"
#include "elf.h"
#include "model_state.h"
#include "sha256.h"
#include "tensorrt.h"
#include "text.h"

#include <atomic>

namespace memvp
{
namespace
{

// What this machine has, looked at when it is first needed. Without a plugin in an engine nothing is asked of the
// plugin library here, whose code that would run.
class Machine
{
public:
    explicit Machine(ModelOptions const& options)
        : mOptions(options)
        , mFlavor(tensorrtFlavor())
    {
    }

    Environment environment(Json const& entry)
    {
        Environment here;
        auto const& target = entry.at("target").string();
        // One library is linked here: that of TensorRT, or that of TensorRT-RTX.
        bool const ours = (target == "tensorrt-rtx") == (mFlavor == "tensorrt-rtx");
        here.flavor = ours ? mFlavor : target;
        if (ours)
        {
            here.tensorrt = tensorrtVersion(entry.at("tensorrt").string());
        }
        here.gpu = gpuFacts(mOptions.device);
        here.whyNoGpu = here.gpu ? "" : whyNoGpu();
        if (!entry.at("plugin").isNull())
        {
            lookForPlugin();
            here.whyNoPlugin = mWhyNoPlugin;
            if (mPlugin)
            {
                here.plugin = InstalledPlugin{mPlugin->buildId, mPlugin->sha256, mPlugin->operators,
                    !here.gpu || mPlugin->runsOn(here.gpu->sm)};
            }
        }
        return here;
    }

    // Whether all host code in the engine of a file is the plugin library's here; nothing where it has none.
    std::optional<bool> knownCode(Json const& entry, std::filesystem::path const& file)
    {
        auto const& plugin = entry.at("plugin");
        if (plugin.isNull() || !plugin.at("embedded").boolean())
        {
            return std::nullopt;
        }
        lookForPlugin();
        return mPlugin && holdsOnly(file, mPlugin->path);
    }

    // The library that the preflight found.
    PluginInfo const& plugin() const
    {
        return mPlugin.value();
    }

private:
    void lookForPlugin()
    {
        if (mLooked)
        {
            return;
        }
        mLooked = true;
        try
        {
            if (auto const library = findPluginLibrary(mOptions.pluginLibrary); !library.empty())
            {
                mPlugin = readPluginLibrary(library);
            }
        }
        catch (Error const& error)
        {
            mWhyNoPlugin = error.what();
        }
    }

    ModelOptions const& mOptions;
    std::string mFlavor;
    bool mLooked = false;
    std::optional<PluginInfo> mPlugin;
    std::string mWhyNoPlugin;
};

std::shared_ptr<Engine const> load(Bundle const& bundle, Json const& entry, Machine& machine, bool trusted)
{
    auto const path = bundle.path(entry.at("file").string());
    auto const& listed = bundle.manifest().at("files").at(entry.at("file").string());
    EngineFile const file{static_cast<std::uint64_t>(listed.at("size").integer()), sha256File(path),
        listed.at("sha256").string(), machine.knownCode(entry, path)};
    requireLoadable(entry, machine.environment(entry), file, trusted);
    auto const& plugin = entry.at("plugin");
    bool const embedded = !plugin.isNull() && plugin.at("embedded").boolean();
    if (!plugin.isNull() && !embedded)
    {
        std::vector<std::string> operators;
        for (auto const& name : plugin.at("operators").array())
        {
            operators.push_back(name.string());
        }
        loadPlugin(machine.plugin(), operators);
    }
    return std::make_shared<Engine const>(entry, loadEngine(path, embedded));
}

} // namespace

std::shared_ptr<Engine const> Model::State::engine(std::string const& component) const
{
    auto const found = engines.find(component);
    if (found != engines.end())
    {
        return found->second;
    }
    std::vector<std::string> known;
    for (auto const& [name, entry] : bundle.manifest().at("components").members())
    {
        known.push_back(name);
    }
    bool const named = bundle.manifest().at("components").find(component);
    throw InputError(bundle.name() + " has no " + (named ? "engine of" : "component") + " " + reprOf(component)
        + "; its components are " + joined(known));
}

std::shared_ptr<Model::State const> loadModel(std::filesystem::path const& folder, ModelOptions const& options)
{
    static std::atomic<std::uint64_t> opened{0};
    auto state = std::make_shared<Model::State>(Model::State{Bundle::open(folder), options.device, ++opened, {}, {}});
    auto const& bundle = state->bundle;
    auto const precision
        = options.precision.empty() ? bundle.manifest().at("precision").string() : options.precision;
    Machine machine(options);
    auto const here = [&machine](Json const& entry) { return machine.environment(entry); };
    auto const chosen = chooseEngines(bundle, precision, here, options.trustBundle);
    std::vector<std::string> files;
    for (auto const& [component, entry] : chosen)
    {
        state->engines[component] = load(bundle, entry, machine, options.trustBundle);
        files.push_back(entry.at("file").string() + " (" + entry.at("lowering").string() + ")");
    }
    auto const& target = chosen.front().second.at("target").string();
    state->described = "the engines that run, for " + target + ": " + joined(files);
    return state;
}

} // namespace memvp
