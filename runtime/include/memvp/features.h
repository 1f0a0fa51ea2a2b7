// Features of a picture, which another program made -> the rows that a model was trained on.
#pragma once

#include "memvp/json.h"

#include <cstdint>
#include <vector>

namespace memvp
{

// A grid of features in memory of the caller's: [rows,width], row by row of the picture from its top left.
struct Features
{
    float const* values = nullptr;
    std::int64_t rows = 0;
    std::int64_t width = 0;
};

// What the `preprocessing` of a model that takes features says, checked. Threads may share it.
class FeaturePooling
{
public:
    // Throws InputError unless it is a preprocessing that this version carries out to the letter.
    explicit FeaturePooling(Json const& spec);

    // Of the model's input.
    std::int64_t rows() const noexcept
    {
        return mRows;
    }
    std::int64_t width() const noexcept
    {
        return mWidth;
    }

    // [rows,width] of the model. A grid of another size is pooled: the largest value of each feature in the windows of
    // a square grid over a square one. Throws InputError for other features than the model takes, more rows than
    // 16,384, a grid that is no square where it is to be pooled, and values that are not finite.
    std::vector<float> pooled(Features const& features) const;

private:
    std::int64_t mRows = 0;
    std::int64_t mWidth = 0;
};

} // namespace memvp
