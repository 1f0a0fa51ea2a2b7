// Pictures -> the pixels that a model was trained on, as its manifest's `preprocessing` says.
#pragma once

#include "memvp/json.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace memvp
{

// An upright picture in memory of the caller's: 8-bit samples, rows from the top, in each row pixels from the left, in
// each pixel red, green, blue. A decoder of files is left to the app; it should apply EXIF rotation and drop alpha.
struct Image
{
    std::uint8_t const* rgb = nullptr;
    int height = 0;
    int width = 0;
    // Bytes from one row to the next; 0 where rows follow one another without a gap, as 3 * width.
    std::size_t rowBytes = 0;
};

// What a manifest's `preprocessing` says, checked. Threads may share it.
class Preprocessing
{
public:
    // Throws InputError unless it is a preprocessing that this version carries out to the letter.
    explicit Preprocessing(Json const& spec);

    // Of the model's input.
    int height() const noexcept
    {
        return mHeight;
    }
    int width() const noexcept
    {
        return mWidth;
    }

    // `(resized * scale - mean) / std`, float32 [3, height, width], channels red, green, blue; zero where a picture
    // does not reach. Bit for bit what memvp-export makes of the same picture with Pillow 13; earlier ones differ by
    // rounding where a picture loses more than twice as many rows as columns. Throws InputError for a picture without
    // pixels, or one too long to be cropped.
    std::vector<float> pixels(Image const& image) const;

    // Where `pixels` puts the picture: [height, width], 1 inside it and 0 in the padding. Throws InputError for a
    // picture without pixels.
    std::vector<std::int64_t> mask(Image const& image) const;

private:
    enum class Resize
    {
        kSQUASH,
        kCENTER_CROP,
        kPIXELBERT
    };
    // A line of pixels is scaled to more than an int holds.
    struct Size
    {
        std::int64_t height;
        std::int64_t width;
    };

    Size resizedSize(Image const& image) const;
    Size rounded(double height, double width) const;

    Resize mResize{};
    int mHeight = 0;
    int mWidth = 0;
    double mShorter = 0;
    double mLonger = 0;
    int mMultiple = 1;
    // [3][256], by channel and sample.
    std::vector<float> mTable;
};

} // namespace memvp
