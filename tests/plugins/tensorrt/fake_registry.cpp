// Stands in for the library of TensorRT 8.6: its registry of plugins, which holds one creator.
#include <NvInfer.h>

namespace
{

class Registry final : public nvinfer1::IPluginRegistry
{
public:
    bool registerCreator(nvinfer1::IPluginCreator& creator, nvinfer1::AsciiChar const* const) noexcept override
    {
        mCreator = &creator;
        ++mCount;
        return true;
    }

    nvinfer1::IPluginCreator* const* getPluginCreatorList(int32_t* const count) const noexcept override
    {
        *count = mCreator ? 1 : 0;
        return &mCreator;
    }

    nvinfer1::IPluginCreator* getPluginCreator(nvinfer1::AsciiChar const* const, nvinfer1::AsciiChar const* const,
        nvinfer1::AsciiChar const* const) noexcept override
    {
        return mCreator;
    }

    void setErrorRecorder(nvinfer1::IErrorRecorder* const) noexcept override {}

    nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override
    {
        return nullptr;
    }

    bool deregisterCreator(nvinfer1::IPluginCreator const&) noexcept override
    {
        return false;
    }

    bool isParentSearchEnabled() const override
    {
        return false;
    }

    void setParentSearchEnabled(bool const) override {}

    PluginLibraryHandle loadLibrary(nvinfer1::AsciiChar const*) noexcept override
    {
        return nullptr;
    }

    void deregisterLibrary(PluginLibraryHandle) noexcept override {}

    nvinfer1::IPluginCreator* mCreator{nullptr};
    int mCount{0};
};

Registry gRegistry;

} // namespace

extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept
{
    return &gRegistry;
}

extern "C" char const* creator()
{
    return gRegistry.mCreator ? gRegistry.mCreator->getPluginName() : nullptr;
}

extern "C" int count()
{
    return gRegistry.mCount;
}
