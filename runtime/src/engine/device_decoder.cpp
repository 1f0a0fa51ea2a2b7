#include "device_decoder.h"

#include "memvp/errors.h"
#include "text.h"

#include <utility>

namespace memvp
{
namespace
{

char const* const kLOGITS = "logits";

} // namespace

DeviceDecoder::DeviceDecoder(std::shared_ptr<Engine const> engine, Workspace& workspace)
    : mExecution(std::move(engine), workspace)
    , mWorkspace(workspace)
    , mCache(workspace)
{
    auto const& logits = mExecution.engine().port(kLOGITS, false);
    if (logits.dtype != "float32")
    {
        throw InputError("the engine of decoder gives logits as " + logits.dtype + "; this version takes float32.");
    }
}

void DeviceDecoder::setConstant(std::map<std::string, Bound> inputs)
{
    mConstant = std::move(inputs);
}

void DeviceDecoder::begin(std::int64_t batch)
{
    withMemory("decoder", static_cast<std::size_t>(batch), [&] { mCache.begin(mExecution.engine(), batch); });
}

std::vector<float> DeviceDecoder::run(DecoderCall const& call)
{
    auto const asked = static_cast<std::int64_t>(call.logitsPositions.size()) / call.batch;
    std::vector<float> logits;
    withMemory("decoder", static_cast<std::size_t>(call.batch), [&] {
        auto inputs = mConstant;
        auto const put = [&](char const* name, std::int64_t columns, std::vector<std::int64_t> const& values) {
            if (!values.empty())
            {
                auto const& port = mExecution.engine().port(name, true);
                inputs[name] = mIds[name].put(mWorkspace, port, {call.batch, columns}, values);
            }
        };
        put("input_ids", call.columns, call.inputIds);
        put("attention_mask", call.past + call.columns, call.attentionMask);
        put("position_ids", call.columns, call.positionIds);
        put("logits_positions", asked, call.logitsPositions);
        mCache.addInputs(inputs);
        mExecution.begin(inputs, call.positionIds);
        auto const size = mExecution.bytesOf(kLOGITS);
        mExecution.bind(kLOGITS, mLogits.reserve(size));
        mCache.bindOutputs(mExecution, call.columns);
        mExecution.run();
        if (call.keep)
        {
            mCache.keep(call.columns);
        }
        logits.resize(size / sizeof(float));
        mWorkspace.stream.download(logits.data(), mLogits.get(), size);
        mWorkspace.stream.synchronize();
    });
    return logits;
}

void DeviceDecoder::reorder(std::vector<std::int64_t> const& rows)
{
    withMemory("decoder", rows.size(), [&] { mCache.reorder(rows); });
}

} // namespace memvp
