// VisualMemoryFFN as an IPluginV3: TensorRT 10 and later, and TensorRT-RTX.
#include "contract.h"
#include "export.h"
#include "report.h"

#if NV_TENSORRT_MAJOR >= 10

#include <algorithm>

namespace memvp
{
namespace
{

using namespace nvinfer1;

class Plugin final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime
{
public:
    explicit Plugin(State const& state)
        : Plugin(state, Workspace(state.workspace))
    {
    }

    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override
    {
        switch (type)
        {
        case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    Plugin* clone() noexcept override
    {
        return guarded<Plugin*>(nullptr, [this] { return new Plugin(mState, mWorkspace); });
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

    int32_t getNbOutputs() const noexcept override
    {
        return 1;
    }

    int32_t getOutputDataTypes(DataType* outputTypes, int32_t, DataType const* inputTypes,
        int32_t nbInputs) const noexcept override
    {
        return guarded(kFAILED, [&] {
            checkTypes(inputTypes, nbInputs);
            outputTypes[0] = inputTypes[0];
            return 0;
        });
    }

    int32_t getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const*, int32_t, DimsExprs* outputs,
        int32_t, IExprBuilder&) noexcept override
    {
        return guarded(kFAILED, [&] {
            checkShapes(inputs, nbInputs, [](DimsExprs const& dims) { return shapeOf(dims); });
            outputs[0] = inputs[0];
            return 0;
        });
    }

    bool supportsFormatCombination(
        int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t, int32_t) noexcept override
    {
        auto const& desc = inOut[pos].desc;
        return desc.format == TensorFormat::kLINEAR && supports(desc.type) && desc.type == inOut[0].desc.type;
    }

    int32_t configurePlugin(DynamicPluginTensorDesc const* in, int32_t nbInputs, DynamicPluginTensorDesc const*,
        int32_t) noexcept override
    {
        return guarded(kFAILED, [&] {
            checkShapes(in, nbInputs, [](DynamicPluginTensorDesc const& desc) { return shapeOf(desc.min); });
            checkShapes(in, nbInputs, [](DynamicPluginTensorDesc const& desc) { return shapeOf(desc.opt); });
            checkShapes(in, nbInputs, [](DynamicPluginTensorDesc const& desc) { return shapeOf(desc.max); });
            return 0;
        });
    }

    size_t getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t, DynamicPluginTensorDesc const*,
        int32_t) const noexcept override
    {
        return mWorkspace.answer(guarded<size_t>(0, [&] {
            Shape shapes[kINPUTS];
            std::transform(inputs, inputs + kINPUTS, shapes,
                [](DynamicPluginTensorDesc const& desc) { return shapeOf(desc.max); });
            return workspaceOf(problemOf(mState, shapes, inputs[0].desc.type));
        }));
    }

    int32_t onShapeChange(
        PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const*, int32_t) noexcept override
    {
        return guarded(kFAILED, [&] {
            checkShapes(in, nbInputs, [](PluginTensorDesc const& desc) { return shapeOf(desc.dims); });
            return 0;
        });
    }

    int32_t enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*, void const* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept override
    {
        return guarded(kFAILED, [&] {
            launch(mState, inputDesc, inputs, outputs[0], workspace, mWorkspace.bytes(), stream);
            return 0;
        });
    }

    Plugin* attachToContext(IPluginResourceContext*) noexcept override
    {
        return clone();
    }

    PluginFieldCollection const* getFieldsToSerialize() noexcept override
    {
        mState.workspace = mWorkspace.bytes();
        return &mCollection;
    }

private:
    static constexpr int32_t kFAILED = -1;

    Plugin(State const& state, Workspace const& workspace)
        : mState(state)
        , mWorkspace(workspace)
    {
        writeState(mState, mFields);
    }

    State mState;
    Workspace const mWorkspace;
    PluginField mFields[kSTATE_FIELDS];
    PluginFieldCollection const mCollection{kSTATE_FIELDS, mFields};
};

class Creator final : public IPluginCreatorV3One
{
public:
    // At build time the fields are the node's attributes, at run time what getFieldsToSerialize gave.
    Plugin* createPlugin(AsciiChar const*, PluginFieldCollection const* fc, TensorRTPhase phase) noexcept override
    {
        return guarded<Plugin*>(nullptr, [&] {
            static PluginFieldCollection const none{0, nullptr};
            auto const& fields = fc ? *fc : none;
            return new Plugin(phase == TensorRTPhase::kBUILD ? readAttributes(fields) : readState(fields));
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
};

} // namespace
} // namespace memvp

// Called by TensorRT when it loads the library.
MEMVP_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& nbCreators)
{
    static memvp::Creator creator;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
    nbCreators = 1;
    return creators;
}

#endif // NV_TENSORRT_MAJOR >= 10
