#include "execution.h"

#include "memvp/errors.h"
#include "text.h"

#include <algorithm>

namespace memvp
{
namespace
{

nvinfer1::Dims dimsOf(Shape const& shape)
{
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(std::min<std::size_t>(shape.size(), nvinfer1::Dims::MAX_DIMS));
    std::copy_n(shape.begin(), dims.nbDims, dims.d);
    return dims;
}

} // namespace

std::size_t bytesOf(Shape const& shape, std::size_t size)
{
    for (auto const length : shape)
    {
        size *= static_cast<std::size_t>(length);
    }
    return size;
}

void withMemory(std::string const& component, std::size_t rows, std::function<void()> const& work)
{
    try
    {
        work();
    }
    catch (OutOfMemory const& error)
    {
        throw EnvironmentLack(component + " cannot run on " + std::to_string(rows) + " rows at once: " + error.what()
            + " Give it fewer at a time (--batch), or shorter ones, or end other programs.");
    }
}

Execution::Execution(std::shared_ptr<Engine const> engine, Workspace& workspace)
    : mEngine(std::move(engine))
    , mWorkspace(workspace)
{
}

void Execution::begin(std::map<std::string, Bound> const& inputs, std::vector<std::int64_t> const& positions)
{
    forgetTensorrtSaid();
    auto const& entry = mEngine->entry();
    Shapes shapes;
    for (auto const& [name, bound] : inputs)
    {
        mEngine->port(name, true);
        shapes[name] = bound.shape;
    }
    for (auto const& port : entry.at("inputs").array())
    {
        auto const& name = port.at("name").string();
        if (!shapes.count(name))
        {
            throw InputError(mEngine->component() + " needs the input " + reprOf(name) + " " + port.at("dims").repr()
                + " " + port.at("dtype").string());
        }
    }
    checkDims(entry, shapes);
    checkColumns(entry, shapes, positions);
    mCurrent = &context(chooseProfile(entry, shapes));
    for (auto const& [name, bound] : inputs)
    {
        require(mCurrent->setInputShape(name.c_str(), dimsOf(bound.shape)),
            "takes no " + name + " of the shape " + listText(bound.shape));
        require(mCurrent->setTensorAddress(name.c_str(), bound.address), "takes no buffer for " + name);
    }
}

Shape Execution::shapeOf(std::string const& output) const
{
    auto const dims = mCurrent->getTensorShape(output.c_str());
    Shape const shape(dims.d, dims.d + std::max(dims.nbDims, 0));
    require(dims.nbDims >= 0 && std::all_of(shape.begin(), shape.end(), [](auto length) { return length >= 0; }),
        "has no shape for " + output);
    return shape;
}

std::size_t Execution::bytesOf(std::string const& output) const
{
    return memvp::bytesOf(shapeOf(output), mEngine->port(output, false).size);
}

void Execution::bind(std::string const& output, void* address)
{
    require(mCurrent->setTensorAddress(output.c_str(), address), "takes no buffer for " + output);
}

void Execution::run()
{
    auto const size = mEngine->activations();
    giveActivations(*mCurrent, mWorkspace.activations.reserve(size), size);
    require(mCurrent->enqueueV3(mWorkspace.stream.get()), "cannot be run on these inputs");
}

nvinfer1::IExecutionContext& Execution::context(int profile)
{
    auto& held = mContexts[profile];
    if (!held)
    {
        auto made = bareContext(mEngine->get());
        require(made != nullptr, "gives no execution context");
        auto const& name = mEngine->entry().at("profiles").array()[static_cast<std::size_t>(profile)].at("name");
        require(made->setOptimizationProfileAsync(profile, mWorkspace.stream.get()),
            "cannot be run with the profile " + name.string());
        held = std::move(made);
    }
    return *held;
}

void Execution::require(bool done, std::string const& failure) const
{
    if (!done)
    {
        fail(failure);
    }
}

void Execution::fail(std::string const& failure) const
{
    auto const said = tensorrtSaid();
    throw InputError(
        "the engine of " + mEngine->component() + " " + failure + "." + (said.empty() ? "" : " " + said));
}

} // namespace memvp
