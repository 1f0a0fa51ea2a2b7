// Visual memory of images: vision's way from pixels or features to rows on the device.
#pragma once

#include "cuda.h"
#include "execution.h"
#include "memvp/features.h"
#include "memvp/image.h"
#include "memvp/runtime.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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

    // Visual memory of each image; of a null one, what a row without an image has. Throws InputError where the model
    // takes features.
    std::vector<std::shared_ptr<SeenImage>> see(std::vector<Image const*> const& images);

    // Visual memory of each image that these are the features of. Throws InputError where the model takes pixels.
    std::vector<std::shared_ptr<SeenImage>> see(std::vector<Features> const& features);

private:
    // What the model takes of an image: nothing of one that there is not.
    using Taken = std::function<std::vector<float>(std::size_t index)>;

    std::vector<std::shared_ptr<SeenImage>> seeAll(std::size_t count, Taken const& taken);
    void seeSome(std::size_t begun, std::size_t count, Taken const& taken,
        std::vector<std::shared_ptr<SeenImage>>& found);

    Execution mExecution;
    // One of the two.
    std::optional<Preprocessing> mPreprocessing;
    std::optional<FeaturePooling> mPooling;
    Workspace& mWorkspace;
    std::size_t mMost;
    std::string mInput;
    // Of one image.
    Shape mShape;
    bool mIndicated = false;
    DeviceBuffer mPixels;
    DeviceBuffer mIndicator;
    DeviceBuffer mMemory;
};

} // namespace memvp
