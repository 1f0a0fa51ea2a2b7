// TensorRT whose engines are text: the JSON of an entry in a manifest, with `activation` in bytes. They are strict with
// whoever runs them.
#include "NvInferRuntime.h"
#include "cache_plan.h"
#include "dims.h"
#include "fake_cuda.h"
#include "fake_models.h"
#include "memvp/json.h"
#include "shapes.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace
{

using namespace nvinfer1;
using fake::kKINDS;
using fake::stop;
using fake::Tensor;
using fake::Tensors;
using memvp::Json;
using memvp::Shape;

ILogger* gLogger = nullptr;
std::atomic<bool> gHostCode{false};

void complain(std::string const& why)
{
    gLogger->log(ILogger::Severity::kERROR, (why + "\n").c_str());
}

class Engine final : public ICudaEngine
{
public:
    explicit Engine(Json entry)
        : mEntry(std::move(entry))
    {
        for (auto const* const kind : {"inputs", "outputs"})
        {
            for (auto const& port : mEntry.at(kind).array())
            {
                mNames.push_back(port.at("name").string());
                mPorts[mNames.back()] = {port, std::string(kind) == "inputs"};
            }
        }
    }

    std::int32_t getNbIOTensors() const noexcept override
    {
        return static_cast<std::int32_t>(mNames.size());
    }
    char const* getIOTensorName(std::int32_t index) const noexcept override
    {
        return mNames.at(static_cast<std::size_t>(index)).c_str();
    }
    TensorIOMode getTensorIOMode(char const* name) const noexcept override
    {
        return mPorts.at(name).second ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    DataType getTensorDataType(char const* name) const noexcept override
    {
        return kKINDS.at(dtype(name)).type;
    }
    std::int32_t getNbOptimizationProfiles() const noexcept override
    {
        return static_cast<std::int32_t>(mEntry.at("profiles").array().size());
    }
    std::int64_t getDeviceMemorySizeV2() const noexcept override
    {
        return mEntry.at("activation").integer();
    }
    IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept override;

    std::string const& dtype(std::string const& name) const
    {
        return mPorts.at(name).first.at("dtype").string();
    }
    std::vector<Json> const& dims(std::string const& name) const
    {
        return mPorts.at(name).first.at("dims").array();
    }
    Json const& entry() const
    {
        return mEntry;
    }
    std::vector<std::string> const& names() const
    {
        return mNames;
    }
    bool isInput(std::string const& name) const
    {
        return mPorts.at(name).second;
    }

private:
    Json mEntry;
    std::vector<std::string> mNames;
    std::map<std::string, std::pair<Json, bool>> mPorts;
};

class Context final : public IExecutionContext
{
public:
    explicit Context(Engine const& engine)
        : mEngine(engine)
    {
    }

    bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t stream) noexcept override
    {
        fake::enqueue(stream, [] {});
        mProfile = profile;
        return profile < mEngine.getNbOptimizationProfiles();
    }

    bool setInputShape(char const* name, Dims const& dims) noexcept override
    {
        auto const& profile = mEngine.entry().at("profiles").array().at(static_cast<std::size_t>(mProfile));
        auto const& limits = profile.at("shapes").at(name);
        bool good = dims.nbDims == static_cast<int>(limits.at("max").array().size());
        for (int index = 0; good && index < dims.nbDims; ++index)
        {
            auto const at = static_cast<std::size_t>(index);
            good = limits.at("min").array()[at].integer() <= dims.d[index]
                && dims.d[index] <= limits.at("max").array()[at].integer();
        }
        if (!good)
        {
            complain(std::string("a shape of ") + name + " outside of the profile");
        }
        mShapes[name] = Shape(dims.d, dims.d + dims.nbDims);
        return good;
    }

    Dims getTensorShape(char const* name) const noexcept override
    {
        Dims dims{};
        auto const lengths = memvp::lengthsOf(mEngine.entry().at("inputs"), mShapes);
        for (auto const& dim : mEngine.dims(name))
        {
            dims.d[dims.nbDims++] = memvp::lengthOf(dim, lengths).value_or(-1);
        }
        return dims;
    }

    bool setTensorAddress(char const* name, void* data) noexcept override
    {
        mAddresses[name] = data;
        return data != nullptr;
    }

    void setDeviceMemoryV2(void* memory, std::int64_t size) noexcept override
    {
        if (size < mEngine.getDeviceMemorySizeV2())
        {
            stop("too little memory for activations");
        }
        mActivations = memory;
    }

    bool enqueueV3(cudaStream_t stream) noexcept override
    {
        if (mEngine.entry().find("fails"))
        {
            // The second time without a word, as a refused address is.
            if (!mTold)
            {
                complain("the tactic was lost");
            }
            mTold = true;
            return false;
        }
        // What is set later is for the next call.
        fake::enqueue(stream, [this, shapes = mShapes, addresses = mAddresses, activations = mActivations] {
            compute(shapes, addresses, activations);
        });
        return true;
    }

private:
    void compute(memvp::Shapes const& shapes, std::map<std::string, void*> const& addresses, void* activations)
    {
        auto const& entry = mEngine.entry();
        auto const size = static_cast<std::size_t>(mEngine.getDeviceMemorySizeV2());
        std::memset(fake::inside(activations, size, "memory for activations"), 0xA5, size);
        auto const lengths = memvp::lengthsOf(entry.at("inputs"), shapes);
        Tensors tensors;
        for (auto const& name : mEngine.names())
        {
            Tensor tensor{mEngine.dtype(name), {}, nullptr};
            for (auto const& dim : mEngine.dims(name))
            {
                tensor.shape.push_back(memvp::lengthOf(dim, lengths).value_or(-1));
            }
            if (mEngine.isInput(name) && tensor.shape != shapes.at(name))
            {
                stop(name + " has a shape that does not belong to those of the other inputs");
            }
            if (!addresses.count(name))
            {
                stop(name + " has no address");
            }
            tensor.data
                = fake::inside(addresses.at(name), tensor.count() * kKINDS.at(tensor.dtype).size, "the tensor " + name);
            tensors[name] = tensor;
        }
        auto const& cache = entry.at("cache");
        auto const kind = cache.isNull() ? std::string() : cache.at("kind").string();
        for (auto const& [name, tensor] : tensors)
        {
            auto const present = tensors.find(memvp::presentOf(name));
            if (present != tensors.end() && (present->second.data == tensor.data) != (kind == "in_place"))
            {
                stop(name + " and its present should have one address in place, and two otherwise");
            }
        }
        fake::compute(entry.at("component").string(), kind, tensors);
    }

    Engine const& mEngine;
    bool mTold = false;
    int mProfile = -1;
    memvp::Shapes mShapes;
    std::map<std::string, void*> mAddresses;
    void* mActivations = nullptr;
};

IExecutionContext* Engine::createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept
{
    if (strategy != ExecutionContextAllocationStrategy::kUSER_MANAGED)
    {
        stop("contexts share their memory for activations");
    }
    return new Context(*this);
}

class Runtime final : public IRuntime
{
public:
    void setEngineHostCodeAllowed(bool allowed) noexcept override
    {
        gHostCode = allowed;
    }

    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override
    {
        std::string const text(static_cast<char const*>(blob), size);
        try
        {
            // A library may lie behind the text.
            auto const entry = Json::parse(text.substr(0, text.find('\n')));
            auto const& plugin = entry.at("plugin");
            bool const carries = plugin.is(Json::Type::kOBJECT) && plugin.at("embedded").boolean();
            if (carries && !gHostCode)
            {
                complain("the engine holds host code, which is not allowed");
                return nullptr;
            }
            return new Engine(entry);
        }
        catch (std::exception const&)
        {
            complain("Magic tag does not match");
            return nullptr;
        }
    }
};

class Registry final : public IPluginRegistry
{
public:
    IPluginCreatorInterface* getCreator(AsciiChar const* name, AsciiChar const*, AsciiChar const*) noexcept override
    {
        return mLoaded && std::string(name) == "VisualMemoryFFN" ? &mCreator : nullptr;
    }

    void* loadLibrary(AsciiChar const*) noexcept override
    {
        mLoaded = !std::getenv("FAKE_NO_CREATORS");
        return &mCreator;
    }

private:
    bool mLoaded = false;
    IPluginCreatorInterface mCreator;
};

int part(int index)
{
    auto const* const version = std::getenv("FAKE_TENSORRT");
    std::string text = version ? version : "10.13.3.9";
    for (int skipped = 0; skipped < index; ++skipped)
    {
        text = text.substr(text.find('.') + 1);
    }
    return std::atoi(text.c_str());
}

} // namespace

nvinfer1::IRuntime* nvinfer1::createInferRuntime(ILogger& logger) noexcept
{
    gLogger = &logger;
    return new Runtime;
}

nvinfer1::IPluginRegistry* getPluginRegistry() noexcept
{
    static Registry registry;
    return &registry;
}

std::int32_t getInferLibMajorVersion() noexcept
{
    return part(0);
}
std::int32_t getInferLibMinorVersion() noexcept
{
    return part(1);
}
std::int32_t getInferLibPatchVersion() noexcept
{
    return part(2);
}
std::int32_t getInferLibBuildVersion() noexcept
{
    return part(3);
}
