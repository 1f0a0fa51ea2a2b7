// An encoder on the device, and what it leaves for a decoder there.
#pragma once

#include "device_decoder.h"
#include "device_ids.h"
#include "execution.h"
#include "memvp/encoder_decoder.h"

#include <map>
#include <memory>
#include <string>

namespace memvp
{

class DeviceEncoder final : public Encoder
{
public:
    // Of the decoder that it is to tell what was read. Throws InputError where their engines do not fit together.
    DeviceEncoder(std::shared_ptr<Engine const> engine, DeviceDecoder& decoder, Workspace& workspace);

    // [B,v,d] for the texts that are read next, in the type of the engines' ports.
    void setVisual(Bound memory);

    void run(EncoderCall const& call) override;

private:
    // Each row `copies` times, one behind the other.
    Bound repeated(std::string const& name, Bound const& tensor, std::size_t size, std::int64_t copies);

    Execution mExecution;
    DeviceDecoder& mDecoder;
    Workspace& mWorkspace;
    Bound mVisual{};
    // By input.
    std::map<std::string, DeviceIds> mIds;
    // By output.
    std::map<std::string, DeviceBuffer> mOutputs;
    // By input of the decoder.
    std::map<std::string, DeviceBuffer> mRepeated;
};

} // namespace memvp
