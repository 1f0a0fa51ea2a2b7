// A loaded engine and what its bundle says of it.
#pragma once

#include "memvp/json.h"
#include "shapes.h"
#include "tensorrt.h"

#include <map>
#include <memory>
#include <string>

namespace memvp
{

struct Port
{
    std::string dtype;
    // Bytes of a number.
    std::size_t size;
    bool input;
};

// Shared by the lanes, which only read it.
class Engine
{
public:
    // Throws InputError where the engine's ports and profiles are not those of its entry.
    Engine(Json entry, std::shared_ptr<nvinfer1::ICudaEngine> engine);

    Json const& entry() const noexcept
    {
        return mEntry;
    }
    std::string const& component() const
    {
        return mEntry.at("component").string();
    }
    nvinfer1::ICudaEngine& get() const noexcept
    {
        return *mEngine;
    }
    std::map<std::string, Port> const& ports() const noexcept
    {
        return mPorts;
    }
    // Throws InputError where the component has no such input or output.
    Port const& port(std::string const& name, bool input) const;

    std::size_t activations() const noexcept
    {
        return mActivations;
    }

private:
    Json mEntry;
    std::shared_ptr<nvinfer1::ICudaEngine> mEngine;
    std::map<std::string, Port> mPorts;
    std::size_t mActivations;
};

} // namespace memvp
