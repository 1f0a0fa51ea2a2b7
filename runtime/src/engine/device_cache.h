// Keys and values of the columns a decoder has seen, on the device.
#pragma once

#include "cache_plan.h"
#include "cuda.h"
#include "execution.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace memvp
{

// The cache of one batch in one lane; buffers stay from batch to batch. See CachePlan for what its kinds hold.
class DeviceCache
{
public:
    explicit DeviceCache(Workspace& workspace)
        : mWorkspace(workspace)
    {
    }

    // Empty, for a batch of an engine's decoder. In place, buffers begin with zeros: what a masked slot holds is
    // multiplied by 0, which does not help against whatever memory held.
    void begin(Engine const& engine, std::int64_t batch);

    std::int64_t length() const noexcept
    {
        return mPlan.length();
    }

    // Enter the past among the inputs of a call.
    void addInputs(std::map<std::string, Bound>& inputs);

    // Give the call, which runs `columns` new ones, places for what it returns. Throws InputError where it would return
    // anything but a cache of the engine's kind.
    void bindOutputs(Execution& call, std::int64_t columns);

    // Hold the columns of a call that was put on the stream.
    void keep(std::int64_t columns);

    // Let each row of the batch go on from what the row that `rows` [B] names for it has held.
    void reorder(std::vector<std::int64_t> const& rows);

private:
    struct Buffers
    {
        DeviceBuffer past;
        // Where a call writes: the whole cache, or the new columns.
        DeviceBuffer present;
        // Where past and new columns are joined, and rows put in another order: a copy must not write what it reads.
        DeviceBuffer joined;
    };

    void append(CachePlan::Ports const& ports, Buffers& buffers, std::int64_t columns);

    Workspace& mWorkspace;
    CachePlan mPlan;
    // By ports, as the plan has them.
    std::vector<Buffers> mBuffers;
    // Bytes of a number.
    std::vector<std::size_t> mSizes;
};

} // namespace memvp
