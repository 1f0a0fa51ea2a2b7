// Calls the adapter as TensorRT does, without TensorRT: its interfaces are in the headers. Prints one `key: value` a
// line, `refused: <message>` where the adapter says no. The argument is the library.
#include "contract.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace
{

constexpr int32_t kTENSORS = memvp::kINPUTS + 1;

std::string gMessage;

struct Logger : ILogger
{
    void log(Severity severity, AsciiChar const* message) noexcept override
    {
        gMessage = severity == Severity::kERROR ? message : "not an error";
    }
};

struct Finder : ILoggerFinder
{
    ILogger* findLogger() override
    {
        return &logger;
    }
    Logger logger;
};

void tell(char const* key, bool accepted, std::string const& value = "accepted")
{
    std::printf("%s: %s\n", key, accepted ? value.c_str() : ("refused: " + gMessage).c_str());
    gMessage.clear();
}

// An extent of a shape while a network is defined; -1 is one that the profile will give.
struct Extent : IDimensionExpr
{
    struct Impl : apiv::VDimensionExpr
    {
        bool isConstant() const noexcept override
        {
            return value >= 0;
        }
        decltype(std::declval<IDimensionExpr>().getConstantValue()) getConstantValue() const noexcept override
        {
            return value;
        }
#if NV_TENSORRT_MAJOR >= 10
        bool isSizeTensor() const noexcept override
        {
            return false;
        }
#endif
        int32_t value;
    };
    explicit Extent(int32_t value)
    {
        impl.value = value;
        mImpl = &impl;
    }
    Impl impl;
};

using Shapes = std::vector<std::vector<int32_t>>;

Shapes const kSHAPES = {{-1, -1, 24}, {-1, -1, 24}, {-1, 5, 24}, {7, 24}, {7, 24}};

Shapes changed(Shapes shapes, int32_t input, std::vector<int32_t> shape)
{
    shapes[input] = shape;
    return shapes;
}

Shapes known(int32_t batch, int32_t tokens, int32_t visualBatch)
{
    return {{batch, tokens, 24}, {batch, tokens, 24}, {visualBatch, 5, 24}, {7, 24}, {7, 24}};
}

PluginTensorDesc describe(std::vector<int32_t> const& shape, DataType type)
{
    PluginTensorDesc desc{};
    desc.dims.nbDims = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), desc.dims.d);
    desc.type = type;
    desc.format = TensorFormat::kLINEAR;
    return desc;
}

// The inputs and, as large as the first of them, the output.
std::vector<PluginTensorDesc> describe(Shapes const& shapes, DataType type)
{
    std::vector<PluginTensorDesc> descs;
    for (auto const& shape : shapes)
    {
        descs.push_back(describe(shape, type));
    }
    descs.push_back(descs[0]);
    return descs;
}

std::vector<DynamicPluginTensorDesc> ranges(Shapes const& least, Shapes const& most, DataType type)
{
    auto const low = describe(least, type);
    auto const high = describe(most, type);
    std::vector<DynamicPluginTensorDesc> descs(kTENSORS);
    for (int32_t i = 0; i < kTENSORS; ++i)
    {
        descs[i].desc = low[i];
        descs[i].min = low[i].dims;
        descs[i].max = high[i].dims;
#if NV_TENSORRT_MAJOR >= 10
        descs[i].opt = high[i].dims;
#endif
    }
    return descs;
}

#if NV_TENSORRT_MAJOR >= 10

using Plugin = IPluginV3;
using Creator = IPluginCreatorV3One;
constexpr char kCREATORS[] = "getCreators";
using Creators = IPluginCreatorInterface* const* (*) (int32_t&);

template <typename Capability>
Capability* part(Plugin& plugin, PluginCapabilityType type)
{
    return static_cast<Capability*>(plugin.getCapabilityInterface(type));
}

IPluginV3OneBuild* build(Plugin& plugin)
{
    return part<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
}

IPluginV3OneRuntime* runtime(Plugin& plugin)
{
    return part<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

std::string nameOf(Plugin& plugin)
{
    return part<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE)->getPluginName();
}

Plugin* create(Creator& creator, PluginFieldCollection const& fields)
{
    return creator.createPlugin("node", &fields, TensorRTPhase::kBUILD);
}

bool outputTypes(Plugin& plugin, std::vector<DataType> const& types)
{
    DataType output{};
    return build(plugin)->getOutputDataTypes(&output, 1, types.data(), static_cast<int32_t>(types.size())) == 0
        && output == types[0];
}

bool outputShapes(Plugin& plugin, std::vector<DimsExprs> const& inputs, IExprBuilder& builder)
{
    DimsExprs output{};
    auto const count = static_cast<int32_t>(inputs.size());
    return build(plugin)->getOutputShapes(inputs.data(), count, nullptr, 0, &output, 1, builder) == 0
        && output.nbDims == 3 && output.d[1] == inputs[0].d[1];
}

bool supports(Plugin& plugin, int32_t position, std::vector<PluginTensorDesc> const& described)
{
    std::vector<DynamicPluginTensorDesc> descs(described.size());
    for (size_t i = 0; i < described.size(); ++i)
    {
        descs[i].desc = described[i];
    }
    return build(plugin)->supportsFormatCombination(position, descs.data(), memvp::kINPUTS, 1);
}

bool configure(Plugin& plugin, std::vector<DynamicPluginTensorDesc> const& descs)
{
    return build(plugin)->configurePlugin(descs.data(), memvp::kINPUTS, &descs.back(), 1) == 0;
}

size_t workspace(Plugin& plugin, Shapes const& most, DataType type)
{
    auto const descs = ranges(most, most, type);
    return build(plugin)->getWorkspaceSize(descs.data(), memvp::kINPUTS, &descs.back(), 1);
}

int32_t enqueue(
    Plugin& plugin, PluginTensorDesc const* descs, void const* const* inputs, void* const* outputs, void* workspace)
{
    return runtime(plugin)->enqueue(descs, &descs[memvp::kINPUTS], inputs, outputs, workspace, nullptr);
}

// The plugin of an execution context.
Plugin* attach(Plugin& plugin)
{
    return runtime(plugin)->attachToContext(nullptr);
}

// What an engine keeps, with the change that `edit` makes to a copy of it, and back again.
Plugin* reload(Creator& creator, Plugin& plugin, std::function<void(memvp::State&)> const& edit)
{
    auto const* kept = runtime(plugin)->getFieldsToSerialize();
    memvp::State state{};
    std::vector<PluginField> fields(kept->fields, kept->fields + kept->nbFields);
    for (auto& field : fields)
    {
        std::string const name = field.name;
        void* const place = name == "schema" ? &state.schema
            : name == "build_id"             ? static_cast<void*>(state.buildId)
            : name == "scale"                ? static_cast<void*>(&state.scale)
            : name == "workspace"            ? static_cast<void*>(&state.workspace)
                                             : static_cast<void*>(state.activation);
        auto const size = field.type == PluginFieldType::kCHAR ? field.length
            : field.type == PluginFieldType::kINT64            ? 8
                                                               : 4;
        std::memcpy(place, field.data, static_cast<size_t>(size));
        field.data = place;
    }
    edit(state);
    PluginFieldCollection const collection{kept->nbFields, fields.data()};
    return creator.createPlugin("node", &collection, TensorRTPhase::kRUNTIME);
}

void destroy(Plugin* plugin)
{
    delete plugin;
}

#else

using Plugin = IPluginV2DynamicExt;
using Creator = IPluginCreator;
constexpr char kCREATORS[] = "getPluginCreators";
using Creators = IPluginCreator* const* (*) (int32_t&);

std::string nameOf(Plugin& plugin)
{
    return plugin.getPluginType();
}

Plugin* create(Creator& creator, PluginFieldCollection const& fields)
{
    return static_cast<Plugin*>(creator.createPlugin("node", &fields));
}

// TensorRT 8 refuses types through the formats.
bool outputTypes(Plugin& plugin, std::vector<DataType> const& types)
{
    auto descs = describe(kSHAPES, types[0]);
    bool all = plugin.getOutputDataType(0, types.data(), static_cast<int32_t>(types.size())) == types[0];
    for (size_t i = 0; i < types.size(); ++i)
    {
        descs[i].type = types[i];
        all = all && plugin.supportsFormatCombination(static_cast<int32_t>(i), descs.data(), memvp::kINPUTS, 1);
    }
    return all;
}

bool outputShapes(Plugin& plugin, std::vector<DimsExprs> const& inputs, IExprBuilder& builder)
{
    auto const output
        = plugin.getOutputDimensions(0, inputs.data(), static_cast<int32_t>(inputs.size()), builder);
    return output.nbDims == 3 && output.d[1] == inputs[0].d[1];
}

bool supports(Plugin& plugin, int32_t position, std::vector<PluginTensorDesc> const& described)
{
    return plugin.supportsFormatCombination(position, described.data(), memvp::kINPUTS, 1);
}

// TensorRT 8 takes no answer here: what the plugin thinks of it is in its message.
bool configure(Plugin& plugin, std::vector<DynamicPluginTensorDesc> const& descs)
{
    plugin.configurePlugin(descs.data(), memvp::kINPUTS, &descs.back(), 1);
    return gMessage.empty();
}

size_t workspace(Plugin& plugin, Shapes const& most, DataType type)
{
    auto const descs = describe(most, type);
    return plugin.getWorkspaceSize(descs.data(), memvp::kINPUTS, &descs.back(), 1);
}

int32_t enqueue(
    Plugin& plugin, PluginTensorDesc const* descs, void const* const* inputs, void* const* outputs, void* workspace)
{
    return plugin.enqueue(descs, &descs[memvp::kINPUTS], inputs, outputs, workspace, nullptr);
}

Plugin* attach(Plugin& plugin)
{
    return plugin.clone();
}

Plugin* reload(Creator& creator, Plugin& plugin, std::function<void(memvp::State&)> const& edit)
{
    memvp::State state{};
    if (plugin.getSerializationSize() != sizeof(state))
    {
        return nullptr;
    }
    plugin.serialize(&state);
    edit(state);
    return static_cast<Plugin*>(creator.deserializePlugin("node", &state, sizeof(state)));
}

void destroy(Plugin* plugin)
{
    plugin->destroy();
}

#endif

struct Builder : IExprBuilder
{
};

bool outputShapes(Plugin& plugin, Shapes const& shapes)
{
    std::vector<std::unique_ptr<Extent>> extents;
    std::vector<DimsExprs> exprs;
    for (auto const& shape : shapes)
    {
        DimsExprs one{};
        one.nbDims = static_cast<int32_t>(shape.size());
        for (size_t axis = 0; axis < shape.size(); ++axis)
        {
            extents.push_back(std::make_unique<Extent>(shape[axis]));
            one.d[axis] = extents.back().get();
        }
        exprs.push_back(one);
    }
    Builder builder;
    return outputShapes(plugin, exprs, builder);
}

void probeCreator(Creator& creator)
{
    std::string fields;
    for (int32_t i = 0; i < creator.getFieldNames()->nbFields; ++i)
    {
        fields += std::string(i ? " " : "") + creator.getFieldNames()->fields[i].name;
    }
    tell("creator", true, std::string(creator.getPluginName()) + " " + creator.getPluginVersion() + " " + fields);
    float const scale = 0.5F;
    PluginField const given[]
        = {{"activation", "silu", PluginFieldType::kCHAR, 4}, {"scale", &scale, PluginFieldType::kFLOAT32, 1}};
    auto* const plugin = create(creator, {2, given});
    tell("a string without its closing NUL", plugin != nullptr);
    destroy(plugin);
    tell("no scale", create(creator, {1, given}) != nullptr);
    float const infinite = 1.0F / 0.0F;
    PluginField const wrong[] = {given[0], {"scale", &infinite, PluginFieldType::kFLOAT32, 1}};
    tell("an infinite scale", create(creator, {2, wrong}) != nullptr);
}

void probeBuild(Plugin& plugin)
{
    using Types = std::vector<DataType>;
    auto const all = [](DataType type) { return Types(memvp::kINPUTS, type); };
    tell("float32", outputTypes(plugin, all(DataType::kFLOAT)));
    tell("float16", outputTypes(plugin, all(DataType::kHALF)));
#if NV_TENSORRT_MAJOR >= 9
    tell("bfloat16", outputTypes(plugin, all(DataType::kBF16)));
#endif
    tell("int8", outputTypes(plugin, all(DataType::kINT8)));
    auto mixed = all(DataType::kHALF);
    mixed[2] = DataType::kFLOAT;
    tell("two types", outputTypes(plugin, mixed));

    tell("shapes", outputShapes(plugin, kSHAPES));
    tell("four inputs", outputShapes(plugin, Shapes(kSHAPES.begin(), kSHAPES.end() - 1)));
    tell("hidden of rank 2", outputShapes(plugin, changed(kSHAPES, 0, {-1, 24})));
    tell("ffn of other width", outputShapes(plugin, changed(kSHAPES, 1, {-1, -1, 23})));
    tell("ffn of other tokens", outputShapes(plugin, changed(known(2, 3, 2), 1, {2, 4, 24})));
    tell("too many rows", outputShapes(plugin, changed(kSHAPES, 2, {-1, 8, 24})));
    tell("rows that vary", outputShapes(plugin, changed(kSHAPES, 2, {-1, -1, 24})));
    tell("other visual batch", outputShapes(plugin, known(2, 3, 4)));
    tell("one visual batch", outputShapes(plugin, known(2, 3, 1)));
    tell("tables of two lengths", outputShapes(plugin, changed(kSHAPES, 4, {6, 24})));

    auto descs = describe(kSHAPES, DataType::kHALF);
    tell("output format", supports(plugin, kTENSORS - 1, descs));
    descs.back().format = TensorFormat::kCHW2;
    tell("another format", supports(plugin, kTENSORS - 1, descs));
    descs.back() = describe(kSHAPES[0], DataType::kFLOAT);
    tell("output of another type", supports(plugin, kTENSORS - 1, descs));

    tell("profile", configure(plugin, ranges(known(1, 1, 1), known(8, 64, 8), DataType::kHALF)));
    tell("profile of other visual batch", configure(plugin, ranges(known(1, 1, 1), known(8, 64, 4), DataType::kHALF)));
}

void probeRun(Plugin& plugin)
{
    auto const few = workspace(plugin, known(2, 3, 2), DataType::kHALF);
    auto const many = workspace(plugin, known(8, 64, 8), DataType::kHALF);
    auto const shared = workspace(plugin, known(8, 64, 1), DataType::kHALF);
    tell("workspace", true, few <= many && shared <= many ? "grows" : "shrinks");
    void const* inputs[memvp::kINPUTS] = {};
    void* outputs[1] = {};
    auto descs = describe(known(2, 3, 2), DataType::kHALF);
    tell("null pointers", enqueue(plugin, descs.data(), inputs, outputs, nullptr) == 0);
    descs = describe(known(2, 3, 4), DataType::kHALF);
    tell("call with other visual batch", enqueue(plugin, descs.data(), inputs, outputs, nullptr) == 0);
    descs = describe(known(2, 0, 2), DataType::kHALF);
    tell("call without tokens", enqueue(plugin, descs.data(), inputs, outputs, nullptr) == 0);
}

// A call with addresses that nothing is behind: the workspace's size is looked at before the GPU is.
bool call(Plugin& plugin, Shapes const& shapes)
{
    alignas(16) static char place[16];
    void const* inputs[memvp::kINPUTS] = {place, place, place, place, place};
    void* outputs[1] = {place};
    return enqueue(plugin, describe(shapes, DataType::kHALF).data(), inputs, outputs, place) == 0;
}

void probeWorkspace(Creator& creator, Plugin& plugin)
{
    auto const small = known(2, 3, 2);
    auto const large = known(8, 64, 8);
    auto* const context = attach(plugin);
    tell("call before the query", call(*context, small));
    auto const told = workspace(plugin, small, DataType::kHALF);
    tell("call that the workspace holds", call(*context, small));
    tell("call beyond the workspace", call(*context, large));
    auto* const again = reload(creator, plugin, [=](memvp::State& state) {
        tell("kept workspace", true, state.workspace == told && told > 0 ? "as told" : "another");
    });
    tell("reloaded call that the workspace holds", call(*again, small));
    tell("reloaded call beyond the workspace", call(*again, large));
    destroy(again);
    workspace(plugin, large, DataType::kHALF);
    workspace(plugin, small, DataType::kHALF);
    tell("call of the larger profile", call(*context, large));
    tell("query without tokens", workspace(plugin, known(2, 0, 2), DataType::kHALF) > 0);
    tell("query for other visual batch", workspace(plugin, known(2, 3, 4), DataType::kHALF) > 0);
    tell("call after a refused query", call(*context, small));
    tell("query after a refused one", workspace(plugin, small, DataType::kHALF) == told);
    tell("call after a refused query and another", call(*context, small));
    tell("query for too many tokens", workspace(plugin, known(1 << 20, 1 << 20, 1), DataType::kHALF) > 0);
    destroy(context);
}

void probeState(Creator& creator, Plugin& plugin)
{
    auto* const again = reload(creator, plugin, [](memvp::State&) {});
    tell("reloaded", again != nullptr);
    auto* const third = reload(creator, *again, [](memvp::State& state) {
        tell("state", true, std::to_string(state.scale) + " " + state.activation);
    });
    destroy(third);
    tell("name", true, nameOf(*again));
    destroy(again);
    tell("another schema", reload(creator, plugin, [](memvp::State& state) { state.schema = 99; }) != nullptr);
    auto const older = [](memvp::State& state) { std::strcpy(state.buildId, "0ld"); };
    tell("another build", reload(creator, plugin, older) != nullptr);
#if NV_TENSORRT_MAJOR < 10
    tell("bytes cut short", creator.deserializePlugin("node", "\1\0\0", 4) != nullptr);
#endif
}

} // namespace

int main(int argc, char** argv)
{
    auto* const library = dlopen(argc > 1 ? argv[1] : "", RTLD_NOW | RTLD_LOCAL);
    if (!library)
    {
        std::fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    static Finder finder;
    reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"))(&finder);
    int32_t count = 0;
    auto& creator = static_cast<Creator&>(**reinterpret_cast<Creators>(dlsym(library, kCREATORS))(count));
    float const scale = -0.25F;
    PluginField const fields[] = {
        {"scale", &scale, PluginFieldType::kFLOAT32, 1}, {"activation", "quick_gelu", PluginFieldType::kCHAR, 11}};
    auto* const plugin = create(creator, {2, fields});
    tell("creators", plugin != nullptr, std::to_string(count));
    probeCreator(creator);
    probeBuild(*plugin);
    probeRun(*plugin);
    probeState(creator, *plugin);
    destroy(plugin);
    auto* const unasked = create(creator, {2, fields});
    probeWorkspace(creator, *unasked);
    destroy(unasked);
    return 0;
}
