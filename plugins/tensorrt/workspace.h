// What TensorRT was told of the workspace, so that a call can be held to it.
#ifndef MEMVP_WORKSPACE_H
#define MEMVP_WORKSPACE_H

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace memvp
{

// TensorRT asks any clone of a plugin for its workspace, once for each profile, and when it calls it does not say how
// large the workspace is. So clones share the answer, and an engine keeps it.
class Workspace
{
public:
    // More than any call needs: until TensorRT asks, there is nothing to hold a call to.
    static constexpr uint64_t kNOT_ASKED = UINT64_MAX;

    explicit Workspace(uint64_t bytes)
        : mBytes(std::make_shared<std::atomic<uint64_t>>(bytes))
    {
    }

    // Returns the answer, 0 for a refusal. Which answer is for which call is not known: the largest counts for all of
    // them, and a refusal for good.
    size_t answer(size_t bytes) const noexcept
    {
        auto const after = [=](uint64_t before) -> uint64_t
        { return before == kNOT_ASKED ? bytes : before && bytes ? std::max<uint64_t>(before, bytes) : 0; };
        auto before = mBytes->load();
        while (!mBytes->compare_exchange_weak(before, after(before)))
        {
        }
        return bytes;
    }

    uint64_t bytes() const noexcept
    {
        return mBytes->load();
    }

private:
    std::shared_ptr<std::atomic<uint64_t>> mBytes;
};

} // namespace memvp

#endif // MEMVP_WORKSPACE_H
