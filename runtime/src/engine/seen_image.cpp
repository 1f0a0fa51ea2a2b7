#include "seen_image.h"

#include "memvp/errors.h"

#include <algorithm>
#include <utility>

namespace memvp
{
namespace
{

char const* const kMEMORY = "visual_memory";
char const* const kINDICATOR = "image_indicator";

} // namespace

Vision::Vision(std::shared_ptr<Engine const> engine, Json const& preprocessing, Workspace& workspace)
    : mExecution(std::move(engine), workspace)
    , mWorkspace(workspace)
    , mMost(1)
    , mInput("pixel_values")
{
    if (preprocessing.find("features"))
    {
        mPooling.emplace(preprocessing);
        mInput = "image_features";
    }
    else
    {
        mPreprocessing.emplace(preprocessing);
    }
    auto const& entry = mExecution.engine().entry();
    auto const ranges = builtRanges(entry);
    if (auto const batch = ranges.find("batch"); batch != ranges.end())
    {
        mMost = static_cast<std::size_t>(std::max<std::int64_t>(batch->second.highest, 1));
    }
    mIndicated = mExecution.engine().ports().count(kINDICATOR);
    for (auto const& name : mIndicated ? std::vector<std::string>{mInput, kINDICATOR} : std::vector{mInput})
    {
        if (auto const& port = mExecution.engine().port(name, true); port.dtype != "float32")
        {
            throw InputError("the engine of vision takes " + name + " as " + port.dtype + "; it gets float32 here.");
        }
    }
    if (mPreprocessing)
    {
        mShape = {3, mPreprocessing->height(), mPreprocessing->width()};
    }
    else
    {
        mShape = {mPooling->rows(), mPooling->width()};
    }
}

std::vector<std::shared_ptr<SeenImage>> Vision::see(std::vector<Image const*> const& images)
{
    if (!mPreprocessing)
    {
        throw InputError("this model takes features of an image, which another program makes, and no pixels.");
    }
    return seeAll(images.size(), [this, &images](std::size_t index) {
        return images[index] ? mPreprocessing->pixels(*images[index]) : std::vector<float>();
    });
}

std::vector<std::shared_ptr<SeenImage>> Vision::see(std::vector<Features> const& features)
{
    if (!mPooling)
    {
        throw InputError("this model takes pictures, and no features of them.");
    }
    return seeAll(features.size(), [this, &features](std::size_t index) { return mPooling->pooled(features[index]); });
}

std::vector<std::shared_ptr<SeenImage>> Vision::seeAll(std::size_t count, Taken const& taken)
{
    std::vector<std::shared_ptr<SeenImage>> found;
    for (std::size_t begun = 0; begun < count; begun += mMost)
    {
        auto const some = std::min(mMost, count - begun);
        withMemory("vision", some, [&] { seeSome(begun, some, taken, found); });
    }
    return found;
}

void Vision::seeSome(
    std::size_t begun, std::size_t count, Taken const& taken, std::vector<std::shared_ptr<SeenImage>>& found)
{
    auto const batch = static_cast<std::int64_t>(count);
    std::vector<float> pixels;
    std::vector<float> indicator;
    for (std::size_t index = begun; index < begun + count; ++index)
    {
        auto const made = taken(index);
        indicator.push_back(made.empty() ? 0.0F : 1.0F);
        pixels.insert(pixels.end(), made.begin(), made.end());
        // Zeros where there is no image.
        pixels.resize((index - begun + 1) * bytesOf(mShape, 1));
    }
    auto const put = [this](DeviceBuffer& buffer, std::vector<float> const& values) {
        auto* const place = buffer.reserve(values.size() * sizeof(float));
        mWorkspace.stream.upload(place, values.data(), values.size() * sizeof(float));
        return place;
    };
    Shape shape{batch};
    shape.insert(shape.end(), mShape.begin(), mShape.end());
    std::map<std::string, Bound> inputs{{mInput, {shape, put(mPixels, pixels)}}};
    if (mIndicated)
    {
        inputs[kINDICATOR] = {{batch}, put(mIndicator, indicator)};
    }
    mExecution.begin(inputs);
    auto const size = mExecution.bytesOf(kMEMORY);
    auto* const memory = static_cast<char*>(mMemory.reserve(size));
    mExecution.bind(kMEMORY, memory);
    mExecution.run();
    auto const row = size / count;
    for (std::size_t index = 0; index < count; ++index)
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
