// VisualMemoryFFN as an IPluginV2DynamicExt: TensorRT 8.5 and 8.6.
#include "contract.h"
#include "export.h"
#include "report.h"

#if NV_TENSORRT_MAJOR < 10

#include <algorithm>
#include <cstring>
#include <string>

namespace memvp
{
namespace
{

using namespace nvinfer1;

class Plugin final : public IPluginV2DynamicExt
{
public:
    explicit Plugin(State const& state)
        : Plugin(state, Workspace(state.workspace))
    {
    }

    Plugin* clone() const noexcept override
    {
        return guarded<Plugin*>(nullptr, [this] { return new Plugin(mState, mWorkspace); });
    }

    void destroy() noexcept override
    {
        delete this;
    }

    int32_t initialize() noexcept override
    {
        return 0;
    }

    void terminate() noexcept override {}

    AsciiChar const* getPluginType() const noexcept override
    {
        return kOPERATOR;
    }

    AsciiChar const* getPluginVersion() const noexcept override
    {
        return kVERSION;
    }

    AsciiChar const* getPluginNamespace() const noexcept override
    {
        return kNAMESPACE;
    }

    // The creator's namespace is fixed: the parser looks there and nowhere else.
    void setPluginNamespace(AsciiChar const*) noexcept override {}

    int32_t getNbOutputs() const noexcept override
    {
        return 1;
    }

    // Not refused here: TensorRT 8 asks with types that it is only trying out.
    DataType getOutputDataType(int32_t, DataType const* inputTypes, int32_t) const noexcept override
    {
        return inputTypes[0];
    }

    DimsExprs getOutputDimensions(
        int32_t, DimsExprs const* inputs, int32_t nbInputs, IExprBuilder&) noexcept override
    {
        return guarded(DimsExprs{-1, {}}, [&] {
            checkShapes(inputs, nbInputs, [](DimsExprs const& dims) { return shapeOf(dims); });
            return inputs[0];
        });
    }

    // Shapes are looked at again, without a message: this is the one place where TensorRT 8 takes a no.
    bool supportsFormatCombination(
        int32_t pos, PluginTensorDesc const* inOut, int32_t nbInputs, int32_t) noexcept override
    {
        try
        {
            checkShapes(inOut, nbInputs, [](PluginTensorDesc const& desc) { return shapeOf(desc.dims); });
        }
        catch (...)
        {
            return false;
        }
        auto const& desc = inOut[pos];
        return desc.format == TensorFormat::kLINEAR && supports(desc.type) && desc.type == inOut[0].type;
    }

    void configurePlugin(DynamicPluginTensorDesc const* in, int32_t nbInputs, DynamicPluginTensorDesc const*,
        int32_t) noexcept override
    {
        guarded(0, [&] {
            checkShapes(in, nbInputs, [](DynamicPluginTensorDesc const& desc) { return shapeOf(desc.min); });
            checkShapes(in, nbInputs, [](DynamicPluginTensorDesc const& desc) { return shapeOf(desc.max); });
            return 0;
        });
    }

    size_t getWorkspaceSize(
        PluginTensorDesc const* inputs, int32_t, PluginTensorDesc const*, int32_t) const noexcept override
    {
        return mWorkspace.answer(guarded<size_t>(0, [&] {
            Shape shapes[kINPUTS];
            std::transform(inputs, inputs + kINPUTS, shapes,
                [](PluginTensorDesc const& desc) { return shapeOf(desc.dims); });
            return workspaceOf(problemOf(mState, shapes, inputs[0].type));
        }));
    }

    int32_t enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*, void const* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept override
    {
        return guarded(-1, [&] {
            launch(mState, inputDesc, inputs, outputs[0], workspace, mWorkspace.bytes(), stream);
            return 0;
        });
    }

    size_t getSerializationSize() const noexcept override
    {
        return sizeof(State);
    }

    void serialize(void* buffer) const noexcept override
    {
        auto state = mState;
        state.workspace = mWorkspace.bytes();
        std::memcpy(buffer, &state, sizeof(State));
    }

private:
    Plugin(State const& state, Workspace const& workspace)
        : mState(state)
        , mWorkspace(workspace)
    {
    }

    State const mState;
    Workspace const mWorkspace;
};

class Creator final : public IPluginCreator
{
public:
    Plugin* createPlugin(AsciiChar const*, PluginFieldCollection const* fc) noexcept override
    {
        return guarded<Plugin*>(nullptr, [&] {
            static PluginFieldCollection const none{0, nullptr};
            return new Plugin(readAttributes(fc ? *fc : none));
        });
    }

    Plugin* deserializePlugin(AsciiChar const*, void const* data, size_t length) noexcept override
    {
        return guarded<Plugin*>(nullptr, [&] {
            // Another schema may have another size: the number alone has its place in all of them.
            State state{};
            std::memcpy(&state, data, std::min(length, sizeof(State)));
            if (length < sizeof(state.schema) || (state.schema == kSCHEMA && length != sizeof(State)))
            {
                throw Refusal("the engine keeps " + std::to_string(length) + " bytes of the plugin instead of "
                    + std::to_string(sizeof(State)) + ": it is damaged");
            }
            checkSchema(state.schema);
            state.buildId[sizeof(state.buildId) - 1] = state.activation[sizeof(state.activation) - 1] = 0;
            checkBuild(state.buildId);
            return new Plugin(state);
        });
    }

    PluginFieldCollection const* getFieldNames() noexcept override
    {
        return attributeFields();
    }

    AsciiChar const* getPluginName() const noexcept override
    {
        return kOPERATOR;
    }

    AsciiChar const* getPluginVersion() const noexcept override
    {
        return kVERSION;
    }

    AsciiChar const* getPluginNamespace() const noexcept override
    {
        return kNAMESPACE;
    }

    void setPluginNamespace(AsciiChar const*) noexcept override {}
};

Creator gCreator;

// Weak, so that the library can be opened where TensorRT is not.
#pragma weak getPluginRegistry

bool registerOnce() noexcept
{
    static bool registered = false;
    registered = registered || (getPluginRegistry && getPluginRegistry()->registerCreator(gCreator, kNAMESPACE));
    return registered;
}

#if NV_TENSORRT_MINOR < 6

// TensorRT 8.5 has no way to load a plugin library: opening it must register the operator.
bool const gRegistered = registerOnce();

#endif

} // namespace
} // namespace memvp

// For Python, where TensorRT 8.6 has no way to load a library either; false where TensorRT is not, or has one already.
MEMVP_EXPORT bool memvp_plugin_register()
{
    return memvp::registerOnce();
}

#if NV_TENSORRT_MINOR >= 6
// Called by TensorRT when it loads the library.
MEMVP_EXPORT nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& nbCreators)
{
    static nvinfer1::IPluginCreator* const creators[] = {&memvp::gCreator};
    nbCreators = 1;
    return creators;
}
#endif

#endif // NV_TENSORRT_MAJOR < 10
