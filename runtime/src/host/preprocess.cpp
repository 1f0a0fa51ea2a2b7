#include "memvp/errors.h"
#include "memvp/image.h"
#include "preprocessing_spec.h"
#include "resample.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

namespace memvp
{
namespace
{

// Pixels of a picture between scaling and cropping: a line of pixels would become larger than memory.
constexpr std::int64_t kLARGEST_SCALED = 1 << 26;

std::vector<double> threeNumbers(Json const& spec, std::string const& key)
{
    auto const& value = spec.at(key);
    std::vector<double> found;
    for (auto const& entry : value.is(Json::Type::kARRAY) ? value.array() : std::vector<Json>())
    {
        if (isNumber(entry))
        {
            found.push_back(entry.real());
        }
    }
    if (found.size() != 3 || value.array().size() != 3)
    {
        failNumber(spec, key, "three numbers");
    }
    return found;
}

} // namespace

Preprocessing::Preprocessing(Json const& spec)
{
    if (spec.find("features"))
    {
        throw InputError("this model takes features of an image, which another program makes, and no pixels.");
    }
    auto const* const kind = spec.find("resize");
    bool const pixelbert = kind && kind->isString() && kind->string() == "pixelbert";
    std::set<std::string> sides{"height", "width"};
    if (pixelbert)
    {
        sides.insert({"shorter", "longer", "multiple"});
    }
    std::set<std::string> wanted{"resize", "filter", "channel_order", "mean", "std", "scale"};
    wanted.insert(sides.begin(), sides.end());
    checkKeys(spec, wanted);
    checkKnown(spec, "resize", {"squash", "pixelbert", "center-crop"});
    checkKnown(spec, "filter", {"bicubic"});
    checkKnown(spec, "channel_order", {"RGB"});
    checkSides(spec, sides);
    mResize = pixelbert ? Resize::kPIXELBERT
        : kind->string() == "squash" ? Resize::kSQUASH
                                     : Resize::kCENTER_CROP;
    mHeight = static_cast<int>(spec.at("height").real());
    mWidth = static_cast<int>(spec.at("width").real());
    if (mResize == Resize::kCENTER_CROP && mHeight != mWidth)
    {
        failNumber(spec, "width", "the height, " + spec.at("height").repr() + ": a crop is square");
    }
    auto const mean = threeNumbers(spec, "mean");
    auto const std = threeNumbers(spec, "std");
    if (*std::min_element(std.begin(), std.end()) <= 0)
    {
        failNumber(spec, "std", "three numbers above 0");
    }
    auto const scale = isNumber(spec.at("scale")) ? spec.at("scale").real() : 0.0;
    if (scale <= 0)
    {
        failNumber(spec, "scale", "a number above 0");
    }
    if (pixelbert)
    {
        mShorter = spec.at("shorter").real();
        mLonger = spec.at("longer").real();
        mMultiple = static_cast<int>(spec.at("multiple").real());
    }
    for (std::size_t channel = 0; channel < 3; ++channel)
    {
        for (int level = 0; level < 256; ++level)
        {
            // In float64, rounded once.
            mTable.push_back(static_cast<float>((level * scale - mean[channel]) / std[channel]));
        }
    }
}

std::vector<float> Preprocessing::pixels(Image const& image) const
{
    auto [height, width] = resizedSize(image);
    if (height * width > kLARGEST_SCALED)
    {
        throw InputError("the picture of " + std::to_string(image.width) + " x " + std::to_string(image.height)
            + " pixels would be scaled to " + std::to_string(width) + " x " + std::to_string(height)
            + " before its middle is taken: cut it first.");
    }
    auto const samples = resized(image, static_cast<int>(height), static_cast<int>(width));
    auto const line = static_cast<std::size_t>(width) * 3;
    std::size_t top = 0;
    std::size_t left = 0;
    if (mResize == Resize::kCENTER_CROP)
    {
        // Halves go to the even side.
        top = static_cast<std::size_t>(std::nearbyint(static_cast<double>(height - mHeight) / 2));
        left = static_cast<std::size_t>(std::nearbyint(static_cast<double>(width - mWidth) / 2));
        height = mHeight;
        width = mWidth;
    }
    auto const area = static_cast<std::size_t>(mHeight) * static_cast<std::size_t>(mWidth);
    std::vector<float> found(3 * area);
    for (std::size_t channel = 0; channel < 3; ++channel)
    {
        auto const* const table = mTable.data() + 256 * channel;
        for (std::size_t row = 0; row < static_cast<std::size_t>(height); ++row)
        {
            auto const* const from = samples.data() + (top + row) * line + left * 3 + channel;
            auto* const to = found.data() + channel * area + row * static_cast<std::size_t>(mWidth);
            for (std::size_t column = 0; column < static_cast<std::size_t>(width); ++column)
            {
                to[column] = table[from[3 * column]];
            }
        }
    }
    return found;
}

std::vector<std::int64_t> Preprocessing::mask(Image const& image) const
{
    auto const size = resizedSize(image);
    auto const height = static_cast<std::size_t>(std::min<std::int64_t>(size.height, mHeight));
    auto const width = static_cast<std::size_t>(std::min<std::int64_t>(size.width, mWidth));
    auto const wide = static_cast<std::size_t>(mWidth);
    std::vector<std::int64_t> found(static_cast<std::size_t>(mHeight) * wide);
    for (std::size_t row = 0; row < height; ++row)
    {
        std::fill_n(found.begin() + static_cast<std::ptrdiff_t>(row * wide), width, 1);
    }
    return found;
}

// Height and width of a picture after resizing. center-crop: the shorter side becomes that of the input, the longer one
// is rounded down. pixelbert: the shorter side becomes `shorter`, unless the longer one would pass `longer`; a picture
// that is still larger than the input is scaled to fit.
Preprocessing::Size Preprocessing::resizedSize(Image const& image) const
{
    if (!image.rgb || image.height < 1 || image.width < 1)
    {
        throw InputError("the picture has no pixels.");
    }
    auto const [shorter, longer] = std::minmax(image.height, image.width);
    bool const wide = image.height < image.width;
    if (mResize == Resize::kSQUASH)
    {
        return {mHeight, mWidth};
    }
    if (mResize == Resize::kCENTER_CROP)
    {
        auto const scaled = std::int64_t{mHeight} * longer / shorter;
        return wide ? Size{mHeight, scaled} : Size{scaled, mHeight};
    }
    double const scale = mShorter / shorter;
    double height = wide ? mShorter : scale * image.height;
    double width = wide ? scale * image.width : mShorter;
    if (std::max(height, width) > mLonger)
    {
        double const shrink = mLonger / std::max(height, width);
        height *= shrink;
        width *= shrink;
    }
    auto size = rounded(height, width);
    if (size.height > mHeight || size.width > mWidth)
    {
        double const shrink = std::min(mHeight / height, mWidth / width);
        size = rounded(height * shrink, width * shrink);
    }
    return {std::min<std::int64_t>(size.height, mHeight), std::min<std::int64_t>(size.width, mWidth)};
}

// Rounded, then floored to `multiple`, of which there is one at least.
Preprocessing::Size Preprocessing::rounded(double height, double width) const
{
    auto const side = [this](double length) {
        return std::max(mMultiple, static_cast<int>(length + 0.5) / mMultiple * mMultiple);
    };
    return {side(height), side(width)};
}

} // namespace memvp
