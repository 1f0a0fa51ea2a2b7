// One component of a lane on tensors in host memory.
#pragma once

#include "execution.h"
#include "memvp/tensor.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace memvp
{

class HostExecution
{
public:
    HostExecution(std::shared_ptr<Engine const> engine, Workspace& workspace);

    // All outputs, or those named. Throws InputError for wrong names, shapes or dtypes, EnvironmentLack where the GPU
    // has too little memory.
    Tensors run(Tensors const& inputs, std::vector<std::string> const& outputs);

private:
    // Give the call places for all outputs: a cache in place has that of its input.
    std::map<std::string, void*> bindOutputs(std::map<std::string, Bound> const& inputs);

    Workspace& mWorkspace;
    // By port; given back after the context that knows of them.
    std::map<std::string, DeviceBuffer> mBuffers;
    Execution mExecution;
};

} // namespace memvp
