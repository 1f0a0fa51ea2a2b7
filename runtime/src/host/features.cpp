#include "memvp/features.h"

#include "memvp/errors.h"
#include "preprocessing_spec.h"
#include "text.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace memvp
{
namespace
{

// A grid of 128 x 128: what is larger is no features of a picture.
constexpr std::int64_t kMOST_FEATURES = 1 << 14;

[[noreturn]] void refuse(std::string const& why)
{
    throw InputError("the image features cannot be used: " + why);
}

// The side of a square of so many, 0 where there is none.
std::int64_t sideOf(std::int64_t count)
{
    auto const side = static_cast<std::int64_t>(std::lround(std::sqrt(static_cast<double>(count))));
    return side * side == count ? side : 0;
}

} // namespace

FeaturePooling::FeaturePooling(Json const& spec)
{
    checkKeys(spec, {"features", "rows", "width"});
    checkKnown(spec, "features", {"adaptive-max"});
    checkSides(spec, {"rows", "width"});
    mRows = static_cast<std::int64_t>(spec.at("rows").real());
    mWidth = static_cast<std::int64_t>(spec.at("width").real());
}

std::vector<float> FeaturePooling::pooled(Features const& features) const
{
    if (!features.values || features.width != mWidth || features.rows < 1 || features.rows > kMOST_FEATURES)
    {
        refuse("it is " + listText({features.rows, features.width}) + ", this model takes [L," + std::to_string(mWidth)
            + "] with L from 1 to " + std::to_string(kMOST_FEATURES) + ": another encoder?");
    }
    auto const* const end = features.values + features.rows * mWidth;
    if (!std::all_of(features.values, end, [](float value) { return std::isfinite(value); }))
    {
        refuse("it has values that are not finite.");
    }
    if (features.rows == mRows)
    {
        return {features.values, end};
    }
    auto const side = sideOf(features.rows);
    auto const wanted = sideOf(mRows);
    if (!side || !wanted)
    {
        refuse("it has " + std::to_string(features.rows) + " rows, this model takes " + std::to_string(mRows)
            + ": only a square grid can be pooled to another one.");
    }
    // Window i of n over a side of m goes from floor(i m / n) to ceil((i + 1) m / n).
    auto const first = [side, wanted](std::int64_t window) { return window * side / wanted; };
    auto const behind = [side, wanted](std::int64_t window) { return ((window + 1) * side + wanted - 1) / wanted; };
    std::vector<float> found;
    for (std::int64_t row = 0; row < mRows; ++row)
    {
        auto const down = row / wanted;
        auto const across = row % wanted;
        auto const* const corner = features.values + (first(down) * side + first(across)) * mWidth;
        std::vector<float> largest(corner, corner + mWidth);
        for (auto y = first(down); y < behind(down); ++y)
        {
            for (auto x = first(across); x < behind(across); ++x)
            {
                auto const* const cell = features.values + (y * side + x) * mWidth;
                std::transform(largest.begin(), largest.end(), cell, largest.begin(),
                    [](float one, float other) { return std::max(one, other); });
            }
        }
        found.insert(found.end(), largest.begin(), largest.end());
    }
    return found;
}

} // namespace memvp
