#include "device_cache.h"

#include <utility>

namespace memvp
{

void DeviceCache::begin(Engine const& engine, std::int64_t batch)
{
    mPlan = CachePlan(engine.entry(), batch);
    mBuffers.resize(mPlan.ports().size());
    mSizes.clear();
    for (std::size_t index = 0; index < mBuffers.size(); ++index)
    {
        auto const& ports = mPlan.ports()[index];
        mSizes.push_back(engine.port(ports.past, true).size);
        auto const size = bytesOf(mPlan.pastShape(ports), mSizes.back());
        auto* const past = mBuffers[index].past.reserve(size);
        if (mPlan.kind() == CachePlan::Kind::kIN_PLACE)
        {
            mWorkspace.stream.zero(past, size);
        }
    }
}

void DeviceCache::addInputs(std::map<std::string, Bound>& inputs)
{
    for (std::size_t index = 0; index < mBuffers.size(); ++index)
    {
        auto const& ports = mPlan.ports()[index];
        inputs[ports.past] = {mPlan.pastShape(ports), mBuffers[index].past.get()};
    }
}

void DeviceCache::bindOutputs(Execution& call, std::int64_t columns)
{
    bool const inPlace = mPlan.kind() == CachePlan::Kind::kIN_PLACE;
    for (std::size_t index = 0; index < mBuffers.size(); ++index)
    {
        auto const& ports = mPlan.ports()[index];
        auto& buffers = mBuffers[index];
        mPlan.checkPresent(ports, call.shapeOf(ports.present), columns);
        call.bind(ports.present,
            inPlace ? buffers.past.get() : buffers.present.reserve(call.bytesOf(ports.present), true));
    }
}

void DeviceCache::keep(std::int64_t columns)
{
    for (std::size_t index = 0; index < mBuffers.size(); ++index)
    {
        auto& buffers = mBuffers[index];
        switch (mPlan.kind())
        {
        case CachePlan::Kind::kCONCAT: std::swap(buffers.past, buffers.present); break;
        case CachePlan::Kind::kDELTA: append(mPlan.ports()[index], buffers, columns); break;
        case CachePlan::Kind::kIN_PLACE: break;
        }
    }
    mPlan.grow(columns);
}

void DeviceCache::reorder(std::vector<std::int64_t> const& rows)
{
    bool moved = false;
    for (std::size_t row = 0; row < rows.size(); ++row)
    {
        moved = moved || rows[row] != static_cast<std::int64_t>(row);
    }
    for (std::size_t index = 0; moved && index < mBuffers.size(); ++index)
    {
        auto& buffers = mBuffers[index];
        auto const size = bytesOf(mPlan.pastShape(mPlan.ports()[index]), mSizes[index]);
        auto const row = size / rows.size();
        auto* const joined = static_cast<char*>(buffers.joined.reserve(size, true));
        auto const* const past = static_cast<char const*>(buffers.past.get());
        std::size_t count = 1;
        for (std::size_t begun = 0; begun < rows.size(); begun += count)
        {
            // Rows that stay side by side are one copy.
            count = 1;
            while (begun + count < rows.size() && rows[begun + count] == rows[begun + count - 1] + 1)
            {
                ++count;
            }
            mWorkspace.stream.copy(
                joined + begun * row, past + static_cast<std::size_t>(rows[begun]) * row, count * row);
        }
        std::swap(buffers.past, buffers.joined);
    }
}

// Rows are what lies before the axis that grows, such as [B, heads]: each gets its past, then its new columns.
void DeviceCache::append(CachePlan::Ports const& ports, Buffers& buffers, std::int64_t columns)
{
    auto const index = static_cast<std::size_t>(&buffers - mBuffers.data());
    std::size_t rows = 1;
    std::size_t column = mSizes[index];
    for (std::size_t axis = 0; axis < ports.shape.size(); ++axis)
    {
        auto const length = static_cast<std::size_t>(ports.shape[axis]);
        rows *= axis < mPlan.axis() ? length : 1;
        column *= axis > mPlan.axis() ? length : 1;
    }
    auto const held = static_cast<std::size_t>(mPlan.length()) * column;
    auto const fresh = static_cast<std::size_t>(columns) * column;
    auto const pitch = held + fresh;
    auto* const joined = static_cast<char*>(buffers.joined.reserve(rows * pitch, true));
    mWorkspace.stream.copyRows(joined, pitch, buffers.past.get(), held, held, rows);
    mWorkspace.stream.copyRows(joined + held, pitch, buffers.present.get(), fresh, fresh, rows);
    std::swap(buffers.past, buffers.joined);
}

} // namespace memvp
