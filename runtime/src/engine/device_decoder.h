// The decoder of memvp-llama on the device, for one batch at a time.
#pragma once

#include "device_cache.h"
#include "execution.h"
#include "memvp/generate.h"

#include <array>

namespace memvp
{

class DeviceDecoder final : public Decoder
{
public:
    DeviceDecoder(std::shared_ptr<Engine const> engine, Workspace& workspace);

    // [B,v,d] for the batch that is begun next, in the type of the engine's port.
    void setVisual(Shape shape, void const* memory);

    void begin(std::int64_t batch) override;
    std::vector<float> run(DecoderCall const& call) override;

private:
    Execution mExecution;
    Workspace& mWorkspace;
    DeviceCache mCache;
    Bound mVisual{};
    std::array<DeviceBuffer, 4> mInputs;
    DeviceBuffer mLogits;
};

} // namespace memvp
