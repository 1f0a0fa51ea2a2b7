#include "engine.h"

#include "memvp/errors.h"
#include "text.h"

#include <vector>

namespace memvp
{
namespace
{

std::map<std::string, std::string> listedTypes(Json const& ports)
{
    std::map<std::string, std::string> found;
    for (auto const& port : ports.array())
    {
        found[port.at("name").string()] = port.at("dtype").string();
    }
    return found;
}

} // namespace

Engine::Engine(Json entry, std::shared_ptr<nvinfer1::ICudaEngine> engine)
    : mEntry(std::move(entry))
    , mEngine(std::move(engine))
    , mActivations(activationBytes(*mEngine))
{
    std::map<std::string, std::string> inputs;
    std::map<std::string, std::string> outputs;
    for (int index = 0; index < mEngine->getNbIOTensors(); ++index)
    {
        auto const* const name = mEngine->getIOTensorName(index);
        bool const input = mEngine->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
        (input ? inputs : outputs)[name] = typeName(mEngine->getTensorDataType(name));
    }
    auto const& file = mEntry.at("file").string();
    for (auto const& [kind, ports] : {std::pair("inputs", inputs), std::pair("outputs", outputs)})
    {
        if (listedTypes(mEntry.at(kind)) != ports)
        {
            throw InputError(file + " has other " + kind + " than its manifest says: build it again.");
        }
        for (auto const& [name, dtype] : ports)
        {
            mPorts[name] = {dtype, typeSize(dtype), std::string(kind) == "inputs"};
        }
    }
    if (mEngine->getNbOptimizationProfiles() != static_cast<int>(mEntry.at("profiles").array().size()))
    {
        throw InputError(file + " has other profiles than its manifest says: build it again.");
    }
}

Port const& Engine::port(std::string const& name, bool input) const
{
    auto const found = mPorts.find(name);
    if (found == mPorts.end() || found->second.input != input)
    {
        std::vector<std::string> known;
        for (auto const& port : mEntry.at(input ? "inputs" : "outputs").array())
        {
            known.push_back(port.at("name").string());
        }
        throw InputError(component() + " has no " + (input ? "input " : "output ") + reprOf(name) + "; it "
            + (input ? "takes " : "gives ") + joined(known));
    }
    return found->second;
}

} // namespace memvp
