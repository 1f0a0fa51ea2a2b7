#include "seen_image.h"

#include "memvp/errors.h"

#include <algorithm>
#include <utility>

namespace memvp
{
namespace
{

char const* const kMEMORY = "visual_memory";

} // namespace

Vision::Vision(std::shared_ptr<Engine const> engine, Json const& preprocessing, Workspace& workspace)
    : mExecution(std::move(engine), workspace)
    , mPreprocessing(preprocessing)
    , mWorkspace(workspace)
    , mMost(1)
{
    auto const ranges = builtRanges(mExecution.engine().entry());
    if (auto const batch = ranges.find("batch"); batch != ranges.end())
    {
        mMost = static_cast<std::size_t>(std::max<std::int64_t>(batch->second.highest, 1));
    }
    for (auto const* const name : {"pixel_values", "image_indicator"})
    {
        if (auto const& port = mExecution.engine().port(name, true); port.dtype != "float32")
        {
            throw InputError(
                std::string("the engine of vision takes ") + name + " as " + port.dtype + "; it gets float32 here.");
        }
    }
}

std::vector<std::shared_ptr<SeenImage>> Vision::see(std::vector<Image const*> const& images)
{
    std::vector<std::shared_ptr<SeenImage>> found;
    for (std::size_t begun = 0; begun < images.size(); begun += mMost)
    {
        auto const first = images.begin() + static_cast<std::ptrdiff_t>(begun);
        auto const count = std::min(mMost, images.size() - begun);
        std::vector<Image const*> const some(first, first + static_cast<std::ptrdiff_t>(count));
        withMemory("vision", count, [&] { seeSome(some, found); });
    }
    return found;
}

void Vision::seeSome(std::vector<Image const*> const& images, std::vector<std::shared_ptr<SeenImage>>& found)
{
    auto const batch = static_cast<std::int64_t>(images.size());
    auto const height = mPreprocessing.height();
    auto const width = mPreprocessing.width();
    std::vector<float> pixels;
    std::vector<float> indicator;
    for (auto const* const image : images)
    {
        auto const made = image ? mPreprocessing.pixels(*image)
                                : std::vector<float>(std::size_t{3} * static_cast<std::size_t>(height)
                                      * static_cast<std::size_t>(width));
        pixels.insert(pixels.end(), made.begin(), made.end());
        indicator.push_back(image ? 1.0F : 0.0F);
    }
    auto const put = [this](DeviceBuffer& buffer, std::vector<float> const& values) {
        auto* const place = buffer.reserve(values.size() * sizeof(float));
        mWorkspace.stream.upload(place, values.data(), values.size() * sizeof(float));
        return place;
    };
    mExecution.begin({{"pixel_values", {{batch, 3, height, width}, put(mPixels, pixels)}},
        {"image_indicator", {{batch}, put(mIndicator, indicator)}}});
    auto const size = mExecution.bytesOf(kMEMORY);
    auto* const memory = static_cast<char*>(mMemory.reserve(size));
    mExecution.bind(kMEMORY, memory);
    mExecution.run();
    auto const row = size / images.size();
    for (std::size_t index = 0; index < images.size(); ++index)
    {
        auto seen = std::make_shared<SeenImage>();
        seen->size = row;
        mWorkspace.stream.copy(seen->rows.reserve(row), memory + index * row, row);
        found.push_back(std::move(seen));
    }
    // Other lanes, whose streams know nothing of this one, may look at it.
    mWorkspace.stream.synchronize();
}

} // namespace memvp
