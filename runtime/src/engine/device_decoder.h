// A decoder on the device, for one batch at a time.
#pragma once

#include "device_cache.h"
#include "device_ids.h"
#include "execution.h"
#include "memvp/generate.h"

#include <map>
#include <string>

namespace memvp
{

class DeviceDecoder final : public Decoder
{
public:
    DeviceDecoder(std::shared_ptr<Engine const> engine, Workspace& workspace);

    Engine const& engine() const noexcept
    {
        return mExecution.engine();
    }

    // The inputs that stay the same for the batch that is begun next, on the device, in the types of the engine.
    void setConstant(std::map<std::string, Bound> inputs);

    void begin(std::int64_t batch) override;
    std::vector<float> run(DecoderCall const& call) override;
    void reorder(std::vector<std::int64_t> const& rows) override;

private:
    Execution mExecution;
    Workspace& mWorkspace;
    DeviceCache mCache;
    std::map<std::string, Bound> mConstant;
    // By input.
    std::map<std::string, DeviceIds> mIds;
    DeviceBuffer mLogits;
};

} // namespace memvp
