// Visual memory of images: vision's way from pixels to rows on the device.
#pragma once

#include "cuda.h"
#include "execution.h"
#include "memvp/image.h"
#include "memvp/runtime.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace memvp
{

// Rows [v,d] of one image.
class SeenImage
{
public:
    DeviceBuffer rows;
    std::size_t size = 0;
    // The number of the model that saw it.
    std::uint64_t model = 0;
};

class Vision
{
public:
    Vision(std::shared_ptr<Engine const> engine, Json const& preprocessing, Workspace& workspace);

    // Visual memory of each image; of a null one, what a row without an image has.
    std::vector<std::shared_ptr<SeenImage>> see(std::vector<Image const*> const& images);

private:
    void seeSome(std::vector<Image const*> const& images, std::vector<std::shared_ptr<SeenImage>>& found);

    Execution mExecution;
    Preprocessing mPreprocessing;
    Workspace& mWorkspace;
    std::size_t mMost;
    DeviceBuffer mPixels;
    DeviceBuffer mIndicator;
    DeviceBuffer mMemory;
};

} // namespace memvp
