// One component in one lane: an execution context for each profile that was needed, and the calls that run it.
#pragma once

#include "cuda.h"
#include "engine.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace memvp
{

// What the components of a lane share: they run in turn.
struct Workspace
{
    Stream stream;
    DeviceBuffer activations;
};

struct Bound
{
    Shape shape;
    void* address;
};

class Execution
{
public:
    Execution(std::shared_ptr<Engine const> engine, Workspace& workspace);

    Engine const& engine() const noexcept
    {
        return *mEngine;
    }

    // Begin a call with these inputs by name, in the profile that holds their shapes. positions are the values of
    // `position_ids`, where there is such an input. Throws InputError or NoProfile where the engine does not take them.
    void begin(std::map<std::string, Bound> const& inputs, std::vector<std::int64_t> const& positions = {});

    // Of an output of the call.
    Shape shapeOf(std::string const& output) const;
    std::size_t bytesOf(std::string const& output) const;
    void bind(std::string const& output, void* address);

    // Put the call on the stream.
    void run();

private:
    [[noreturn]] void fail(std::string const& failure) const;
    void require(bool done, std::string const& failure) const;
    nvinfer1::IExecutionContext& context(int profile);

    std::shared_ptr<Engine const> mEngine;
    Workspace& mWorkspace;
    std::map<int, std::unique_ptr<nvinfer1::IExecutionContext>> mContexts;
    nvinfer1::IExecutionContext* mCurrent = nullptr;
};

// Bytes of a tensor.
std::size_t bytesOf(Shape const& shape, std::size_t size);

// What `work` on so many rows gives; where the GPU has too little memory for it, EnvironmentLack says what to do.
void withMemory(std::string const& component, std::size_t rows, std::function<void()> const& work);

} // namespace memvp
