#include "device_encoder.h"

#include "cache_plan.h"
#include "memvp/errors.h"

#include <utility>
#include <vector>

namespace memvp
{
namespace
{

char const* const kVISUAL = "visual_memory";
char const* const kREAD_MASK = "encoder_attention_mask";

} // namespace

DeviceEncoder::DeviceEncoder(std::shared_ptr<Engine const> engine, DeviceDecoder& decoder, Workspace& workspace)
    : mExecution(std::move(engine), workspace)
    , mDecoder(decoder)
    , mWorkspace(workspace)
{
    for (auto const& [name, port] : mExecution.engine().ports())
    {
        auto const past = pastOf(name);
        if (!port.input && !past.empty() && mDecoder.engine().port(past, true).dtype != port.dtype)
        {
            throw InputError("the engine of encoder gives " + name + " as " + port.dtype + ", that of decoder takes "
                + mDecoder.engine().port(past, true).dtype + ": build both again.");
        }
    }
}

void DeviceEncoder::setVisual(Bound memory)
{
    mVisual = std::move(memory);
}

void DeviceEncoder::run(EncoderCall const& call)
{
    auto const& engine = mExecution.engine();
    auto const& decoder = mDecoder.engine();
    std::vector<std::int64_t> mask;
    for (auto row = call.attentionMask.begin(); row != call.attentionMask.end(); row += call.columns)
    {
        for (std::int64_t copy = 0; copy < call.copies; ++copy)
        {
            mask.insert(mask.end(), row, row + call.columns);
        }
    }
    withMemory("encoder", static_cast<std::size_t>(call.batch * call.copies), [&] {
        Shape const shape{call.batch, call.columns};
        std::map<std::string, Bound> inputs;
        auto const put = [&](char const* name, std::vector<std::int64_t> const& values) {
            inputs[name] = mIds[name].put(mWorkspace, engine.port(name, true), shape, values);
        };
        put("input_ids", call.inputIds);
        put("attention_mask", call.attentionMask);
        if (engine.ports().count(kVISUAL))
        {
            inputs[kVISUAL] = mVisual;
        }
        mExecution.begin(inputs);
        std::map<std::string, Bound> left;
        for (auto const& [name, port] : engine.ports())
        {
            if (!port.input)
            {
                auto* const place = mOutputs[name].reserve(mExecution.bytesOf(name), true);
                mExecution.bind(name, place);
                if (auto const past = pastOf(name); !past.empty())
                {
                    left[past] = {mExecution.shapeOf(name), place};
                }
            }
        }
        mExecution.run();
        if (decoder.ports().count(kVISUAL))
        {
            left[kVISUAL] = mVisual;
        }
        for (auto& [name, tensor] : left)
        {
            tensor = call.copies > 1 ? repeated(name, tensor, decoder.port(name, true).size, call.copies) : tensor;
        }
        left[kREAD_MASK] = mIds[kREAD_MASK].put(
            mWorkspace, decoder.port(kREAD_MASK, true), {call.batch * call.copies, call.columns}, mask);
        mDecoder.setConstant(std::move(left));
        // What was put is the caller's.
        mWorkspace.stream.synchronize();
    });
}

Bound DeviceEncoder::repeated(std::string const& name, Bound const& tensor, std::size_t size, std::int64_t copies)
{
    auto shape = tensor.shape;
    auto const rows = static_cast<std::size_t>(shape[0]);
    auto const row = bytesOf(shape, size) / rows;
    auto const times = static_cast<std::size_t>(copies);
    auto* const place = static_cast<char*>(mRepeated[name].reserve(times * rows * row, true));
    for (std::size_t copy = 0; copy < times; ++copy)
    {
        mWorkspace.stream.copyRows(place + copy * row, times * row, tensor.address, row, row, rows);
    }
    shape[0] *= copies;
    return {std::move(shape), place};
}

} // namespace memvp
