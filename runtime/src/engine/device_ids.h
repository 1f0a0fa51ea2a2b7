// Integers of a call on their way to the device.
#pragma once

#include "execution.h"

#include <cstdint>
#include <vector>

namespace memvp
{

// One input of a component, from call to call.
class DeviceIds
{
public:
    // Put values of this shape on the stream, in the type of the engine's port; they are far below what 32 bits hold.
    // What was put before is lost. `values` must stay until the stream was waited for.
    Bound put(Workspace& workspace, Port const& port, Shape shape, std::vector<std::int64_t> const& values)
    {
        void const* host = values.data();
        if (port.dtype == "int32")
        {
            mNarrow.assign(values.begin(), values.end());
            host = mNarrow.data();
        }
        auto const size = values.size() * port.size;
        auto* const place = mBuffer.reserve(size, true);
        workspace.stream.upload(place, host, size);
        return {std::move(shape), place};
    }

private:
    DeviceBuffer mBuffer;
    // Stays until it is copied.
    std::vector<std::int32_t> mNarrow;
};

} // namespace memvp
