#include "host_execution.h"

#include "cache_plan.h"
#include "memvp/errors.h"
#include "text.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace memvp
{
namespace
{

bool isInPlace(Json const& entry)
{
    auto const& cache = entry.at("cache");
    return !cache.isNull() && cache.at("kind").string() == "in_place";
}

// Whether the bytes are those of the shape. A product of long enough lengths wraps round to whatever number there is.
bool isWhole(Tensor const& tensor, std::size_t size)
{
    auto volume = static_cast<double>(size);
    for (auto const length : tensor.shape)
    {
        if (length < 0 || length > std::numeric_limits<std::int32_t>::max())
        {
            return false;
        }
        volume *= static_cast<double>(length);
    }
    return volume == static_cast<double>(tensor.bytes.size()) && bytesOf(tensor.shape, size) == tensor.bytes.size();
}

void checkTensor(std::string const& name, Tensor const& tensor, Port const& port)
{
    if (tensor.dtype != port.dtype)
    {
        throw InputError("the input " + reprOf(name) + " is " + tensor.dtype + ", the graph takes " + port.dtype);
    }
    if (!isWhole(tensor, port.size))
    {
        throw InputError("the input " + reprOf(name) + " has " + std::to_string(tensor.bytes.size())
            + " bytes, which are no " + tensor.dtype + " of the shape " + listText(tensor.shape));
    }
}

std::vector<std::int64_t> positionsOf(Tensors const& inputs)
{
    auto const found = inputs.find("position_ids");
    if (found == inputs.end() || found->second.dtype != "int64" || found->second.bytes.empty())
    {
        return {};
    }
    std::vector<std::int64_t> positions(found->second.bytes.size() / sizeof(std::int64_t));
    std::memcpy(positions.data(), found->second.bytes.data(), positions.size() * sizeof(std::int64_t));
    return positions;
}

// The rows of a call: the longest first dimension of its inputs.
std::size_t rowsOf(Tensors const& inputs)
{
    std::size_t rows = 1;
    for (auto const& [name, tensor] : inputs)
    {
        rows = std::max(rows, tensor.shape.empty() ? 1 : static_cast<std::size_t>(tensor.shape[0]));
    }
    return rows;
}

std::vector<std::string> namesOf(Json const& ports)
{
    std::vector<std::string> names;
    for (auto const& port : ports.array())
    {
        names.push_back(port.at("name").string());
    }
    return names;
}

} // namespace

HostExecution::HostExecution(std::shared_ptr<Engine const> engine, Workspace& workspace)
    : mWorkspace(workspace)
    , mExecution(std::move(engine), workspace)
{
}

Tensors HostExecution::run(Tensors const& inputs, std::vector<std::string> const& outputs)
{
    auto const& engine = mExecution.engine();
    for (auto const& [name, tensor] : inputs)
    {
        checkTensor(name, tensor, engine.port(name, true));
    }
    for (auto const& name : outputs)
    {
        engine.port(name, false);
    }
    Tensors found;
    withMemory(engine.component(), rowsOf(inputs), [&] {
        std::map<std::string, Bound> bound;
        for (auto const& [name, tensor] : inputs)
        {
            auto* const place = mBuffers[name].reserve(tensor.bytes.size(), true);
            mWorkspace.stream.upload(place, tensor.bytes.data(), tensor.bytes.size());
            bound[name] = {tensor.shape, place};
        }
        mExecution.begin(bound, positionsOf(inputs));
        auto const places = bindOutputs(bound);
        mExecution.run();
        for (auto const& name : outputs.empty() ? namesOf(engine.entry().at("outputs")) : outputs)
        {
            Tensor tensor{engine.port(name, false).dtype, mExecution.shapeOf(name), {}};
            tensor.bytes.resize(mExecution.bytesOf(name));
            // Of a name that is given twice, the first stays: its copy is under way.
            auto& kept = found.emplace(name, std::move(tensor)).first->second;
            mWorkspace.stream.download(kept.bytes.data(), places.at(name), kept.bytes.size());
        }
        mWorkspace.stream.synchronize();
    });
    return found;
}

std::map<std::string, void*> HostExecution::bindOutputs(std::map<std::string, Bound> const& inputs)
{
    auto const& entry = mExecution.engine().entry();
    bool const inPlace = isInPlace(entry);
    std::map<std::string, void*> places;
    for (auto const& name : namesOf(entry.at("outputs")))
    {
        // A cache in place is written where it is read.
        auto const past = inputs.find(inPlace ? pastOf(name) : "");
        places[name] = past != inputs.end() ? past->second.address
                                            : mBuffers[name].reserve(mExecution.bytesOf(name), true);
        mExecution.bind(name, places[name]);
    }
    return places;
}

} // namespace memvp
