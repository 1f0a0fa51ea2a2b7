// TensorRT whose engines are text: the JSON of an entry in a manifest, with `activation` in bytes. They compute vision,
// a classifier and the decoder of closed_form.h, and are strict with whoever runs them.
#include "NvInferRuntime.h"
#include "closed_form.h"
#include "dims.h"
#include "fake_cuda.h"
#include "memvp/json.h"
#include "shapes.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

namespace
{

using namespace nvinfer1;
using memvp::Json;
using memvp::Shape;

ILogger* gLogger = nullptr;
std::atomic<bool> gHostCode{false};

[[noreturn]] void stop(std::string const& why)
{
    std::fprintf(stderr, "the fake TensorRT: %s\n", why.c_str());
    std::abort();
}

void complain(std::string const& why)
{
    gLogger->log(ILogger::Severity::kERROR, (why + "\n").c_str());
}

struct Kind
{
    DataType type;
    std::size_t size;
};
std::map<std::string, Kind> const kKINDS{{"float32", {DataType::kFLOAT, 4}}, {"float16", {DataType::kHALF, 2}},
    {"int64", {DataType::kINT64, 8}}, {"int32", {DataType::kINT32, 4}}, {"fp8", {DataType::kFP8, 1}}};

// Whole numbers from 0 to 2047 in half precision.
std::uint16_t halfOf(std::int64_t value)
{
    int exponent = 0;
    while (value >> (exponent + 1))
    {
        ++exponent;
    }
    return value == 0 ? 0
                      : static_cast<std::uint16_t>(
                          (exponent + 15) << 10 | ((value << (10 - exponent)) & 0x3ff));
}

std::int64_t wholeOf(std::uint16_t half)
{
    int const exponent = (half >> 10 & 31) - 15;
    return half == 0 ? 0 : std::lround(std::ldexp(1.0 + (half & 0x3ff) / 1024.0, exponent));
}

struct Tensor
{
    std::string dtype;
    Shape shape;
    char* data = nullptr;

    std::size_t count() const
    {
        std::size_t product = 1;
        for (auto const length : shape)
        {
            product *= static_cast<std::size_t>(length);
        }
        return product;
    }

    std::int64_t at(std::size_t index) const
    {
        auto const* const place = data + index * kKINDS.at(dtype).size;
        std::int64_t whole = 0;
        float real = 0;
        std::uint16_t half = 0;
        std::int32_t narrow = 0;
        switch (kKINDS.at(dtype).type)
        {
        case DataType::kFLOAT: std::memcpy(&real, place, 4); return std::lround(real);
        case DataType::kHALF: std::memcpy(&half, place, 2); return wholeOf(half);
        case DataType::kINT32: std::memcpy(&narrow, place, 4); return narrow;
        default: std::memcpy(&whole, place, 8); return whole;
        }
    }

    void put(std::size_t index, float value) const
    {
        auto* const place = data + index * kKINDS.at(dtype).size;
        if (dtype == "float16")
        {
            auto const half = halfOf(std::lround(value));
            std::memcpy(place, &half, 2);
            return;
        }
        std::memcpy(place, &value, 4);
    }
};
using Tensors = std::map<std::string, Tensor>;

void computeVision(Tensors const& tensors)
{
    auto const& pixels = tensors.at("pixel_values");
    auto const& memory = tensors.at("visual_memory");
    auto const batch = static_cast<std::size_t>(pixels.shape[0]);
    auto const image = pixels.count() / batch;
    auto const row = memory.count() / batch;
    for (std::size_t index = 0; index < batch; ++index)
    {
        std::int64_t bright = 0;
        for (std::size_t at = 0; at < image; ++at)
        {
            float value = 0;
            std::memcpy(&value, pixels.data + (index * image + at) * 4, 4);
            bright += value > 0;
        }
        for (std::size_t at = 0; at < row; ++at)
        {
            memory.put(index * row + at, static_cast<float>(tensors.at("image_indicator").at(index) * (bright % 13)));
        }
    }
}

// What sets the entries of one cache apart from those of the others.
std::int64_t tagOf(std::string const& past, std::size_t heads, std::size_t head, std::size_t place)
{
    auto const layer = std::stoi(past.substr(past.find('.') + 1));
    bool const value = past.substr(past.rfind('.') + 1) == "value";
    return 2 * layer + value + 8 * static_cast<std::int64_t>(head + heads * place);
}

void computeDecoder(Tensors const& tensors, std::string const& kind)
{
    auto const& ids = tensors.at("input_ids");
    auto const& mask = tensors.at("attention_mask");
    auto const& positions = tensors.at("position_ids");
    auto const& asked = tensors.at("logits_positions");
    auto const& visual = tensors.at("visual_memory");
    auto const& logits = tensors.at("logits");
    auto const batch = static_cast<std::size_t>(ids.shape[0]);
    auto const columns = static_cast<std::size_t>(ids.shape[1]);
    auto const width = static_cast<std::size_t>(mask.shape[1]);
    auto const held = width - columns;
    auto const vocabulary = static_cast<std::size_t>(logits.shape[2]);
    for (std::size_t row = 0; row < batch; ++row)
    {
        auto const image = visual.at(row * (visual.count() / batch));
        std::vector<std::int64_t> keys;
        for (std::size_t column = 0; column < columns; ++column)
        {
            keys.push_back(memvp::keyOf(ids.at(row * columns + column), positions.at(row * columns + column), image));
        }
        std::vector<std::int64_t> all;
        for (auto const& [name, past] : tensors)
        {
            auto const present = tensors.find(memvp::presentOf(name));
            if (present == tensors.end())
            {
                continue;
            }
            auto const heads = static_cast<std::size_t>(past.shape[1]);
            auto const size = static_cast<std::size_t>(past.shape[3]);
            auto const pastLength = static_cast<std::size_t>(past.shape[2]);
            auto const presentLength = static_cast<std::size_t>(present->second.shape[2]);
            for (std::size_t head = 0; head < heads; ++head)
            {
                for (std::size_t place = 0; place < size; ++place)
                {
                    auto const tag = tagOf(name, heads, head, place);
                    auto const start = row * heads + head;
                    std::vector<std::int64_t> found;
                    for (std::size_t column = 0; column < held; ++column)
                    {
                        found.push_back(past.at((start * pastLength + column) * size + place) - tag);
                    }
                    found.insert(found.end(), keys.begin(), keys.end());
                    if (!all.empty() && all != found)
                    {
                        stop(name + " lost its past");
                    }
                    all = found;
                    auto const first = kind == "concat" ? 0 : held;
                    auto const shift = kind == "delta" ? held : 0;
                    for (std::size_t column = first; column < width; ++column)
                    {
                        auto const at = (start * presentLength + column - shift) * size + place;
                        present->second.put(at, static_cast<float>(found[column] + tag));
                    }
                }
            }
        }
        all = all.empty() ? keys : all;
        auto const count = static_cast<std::size_t>(asked.shape[1]);
        for (std::size_t index = 0; index < count; ++index)
        {
            auto const last = held + static_cast<std::size_t>(asked.at(row * count + index));
            std::int64_t sum = 0;
            for (std::size_t column = 0; column <= last; ++column)
            {
                bool const visible = mask.at(row * width + column) != 0;
                sum += visible ? memvp::partOf(all[column], static_cast<std::int64_t>(column)) : 0;
            }
            for (std::size_t token = 0; token < vocabulary; ++token)
            {
                auto const value = memvp::logitOf(sum, static_cast<std::int64_t>(token), image);
                // An image of this brightness is more than the model's precision bears.
                logits.put((row * count + index) * vocabulary + token, image == 12 ? INFINITY : value);
            }
        }
    }
}

// Every place of a text and every bright sample of an image counts.
void computeModel(Tensors const& tensors)
{
    auto const& ids = tensors.at("input_ids");
    auto const& logits = tensors.at("logits");
    auto const batch = static_cast<std::size_t>(ids.shape[0]);
    auto const columns = static_cast<std::size_t>(ids.shape[1]);
    for (std::size_t row = 0; row < batch; ++row)
    {
        std::int64_t sum = 0;
        for (std::size_t at = row * columns; at < (row + 1) * columns; ++at)
        {
            sum += ids.at(at) * tensors.at("attention_mask").at(at) * static_cast<std::int64_t>(at - row * columns + 1);
        }
        for (auto const& [name, tensor] : tensors)
        {
            auto const size = tensor.count() / batch;
            auto const weight = name.back() == '2' ? 5 : 3;
            for (std::size_t at = row * size; at < (row + 1) * size && name.compare(0, 6, "pixel_") == 0; ++at)
            {
                float value = 0;
                std::memcpy(&value, tensor.data + at * kKINDS.at(tensor.dtype).size, 4);
                sum += weight * (tensor.dtype == "int64" ? tensor.at(at) : value > 0);
            }
        }
        auto const classes = static_cast<std::size_t>(logits.shape[1]);
        for (std::size_t index = 0; index < classes; ++index)
        {
            logits.put(row * classes + index, static_cast<float>(sum * static_cast<std::int64_t>(index + 2) % 31));
        }
    }
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
            complain("the tactic was lost");
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
        auto const& component = entry.at("component").string();
        component == "vision" ? computeVision(tensors)
            : component == "model" ? computeModel(tensors)
                                   : computeDecoder(tensors, kind);
    }

    Engine const& mEngine;
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
