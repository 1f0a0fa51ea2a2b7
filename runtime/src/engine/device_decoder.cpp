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

void DeviceDecoder::setVisual(Shape shape, void const* memory)
{
    // TensorRT's bindings are of inputs and outputs alike.
    mVisual = {std::move(shape), const_cast<void*>(memory)};
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
        std::map<std::string, Bound> inputs{{"visual_memory", mVisual}};
        std::size_t number = 0;
        // Narrowed numbers must stay until they are copied.
        std::array<std::vector<std::int32_t>, 4> narrow;
        auto const put = [&](char const* name, std::int64_t columns, std::vector<std::int64_t> const& values) {
            auto const& port = mExecution.engine().port(name, true);
            void const* host = values.data();
            if (port.dtype == "int32")
            {
                // Ids, positions and masks are far below what 32 bits hold.
                narrow[number].assign(values.begin(), values.end());
                host = narrow[number].data();
            }
            auto const size = values.size() * port.size;
            auto* const place = mInputs[number++].reserve(size, true);
            mWorkspace.stream.upload(place, host, size);
            inputs[name] = {{call.batch, columns}, place};
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

} // namespace memvp
