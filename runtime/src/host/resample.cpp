#include "resample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace memvp
{
namespace
{

// Pillow's fixed point: 8 bits of a sample, 2 for what overshoots, the rest of 32 for a weight.
constexpr int kBITS = 32 - 8 - 2;
constexpr int kHALF = 1 << (kBITS - 1);
constexpr double kREACH = 2.0;

// Keys' cubic with a = -0.5.
double bicubic(double x)
{
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1)
    {
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    }
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// The samples that an output is made of: from `first` on, with these weights.
struct Window
{
    int first;
    std::vector<int> weights;
};

// Shrinking widens the filter, so that all samples have a part.
std::vector<Window> windows(int from, int to)
{
    double const scale = static_cast<double>(from) / to;
    double const wide = std::max(scale, 1.0);
    double const reach = kREACH * wide;
    double const narrow = 1.0 / wide;
    std::vector<Window> found(static_cast<std::size_t>(to));
    for (int out = 0; out < to; ++out)
    {
        double const center = (out + 0.5) * scale;
        int const first = std::max(static_cast<int>(center - reach + 0.5), 0);
        int const last = std::min(static_cast<int>(center + reach + 0.5), from);
        std::vector<double> exact;
        double sum = 0;
        for (int index = 0; index < last - first; ++index)
        {
            exact.push_back(bicubic((index + first - center + 0.5) * narrow));
            sum += exact.back();
        }
        auto& window = found[static_cast<std::size_t>(out)];
        window.first = first;
        for (auto weight : exact)
        {
            weight = (sum != 0 ? weight / sum : weight) * (1 << kBITS);
            window.weights.push_back(static_cast<int>(weight < 0 ? weight - 0.5 : weight + 0.5));
        }
    }
    return found;
}

std::uint8_t clipped(int sum)
{
    return static_cast<std::uint8_t>(std::clamp(sum >> kBITS, 0, 255));
}

// One line of RGB along one axis: steps are bytes between neighbours.
void resample(std::uint8_t const* in, std::size_t inStep, std::uint8_t* out, std::size_t outStep,
    std::vector<Window> const& windows)
{
    for (auto const& window : windows)
    {
        int sums[3] = {kHALF, kHALF, kHALF};
        auto const* at = in + static_cast<std::size_t>(window.first) * inStep;
        for (auto const weight : window.weights)
        {
            for (int channel = 0; channel < 3; ++channel)
            {
                sums[channel] += at[channel] * weight;
            }
            at += inStep;
        }
        for (int channel = 0; channel < 3; ++channel)
        {
            out[channel] = clipped(sums[channel]);
        }
        out += outStep;
    }
}

// Samples without gaps, row by row.
struct Samples
{
    int height;
    int width;
    std::vector<std::uint8_t> rgb;

    std::size_t line() const
    {
        return static_cast<std::size_t>(width) * 3;
    }
};

Samples withWidth(Samples const& from, int width)
{
    if (from.width == width)
    {
        return from;
    }
    Samples to{from.height, width, {}};
    to.rgb.resize(to.line() * static_cast<std::size_t>(to.height));
    auto const across = windows(from.width, width);
    for (std::size_t row = 0; row < static_cast<std::size_t>(to.height); ++row)
    {
        resample(from.rgb.data() + row * from.line(), 3, to.rgb.data() + row * to.line(), 3, across);
    }
    return to;
}

Samples withHeight(Samples const& from, int height)
{
    if (from.height == height)
    {
        return from;
    }
    Samples to{height, from.width, {}};
    to.rgb.resize(to.line() * static_cast<std::size_t>(to.height));
    auto const down = windows(from.height, height);
    for (std::size_t column = 0; column < to.line(); column += 3)
    {
        resample(from.rgb.data() + column, from.line(), to.rgb.data() + column, to.line(), down);
    }
    return to;
}

} // namespace

std::vector<std::uint8_t> resized(Image const& image, int height, int width)
{
    Samples picture{image.height, image.width, {}};
    auto const rows = static_cast<std::size_t>(image.height);
    auto const rowBytes = image.rowBytes ? image.rowBytes : picture.line();
    picture.rgb.resize(picture.line() * rows);
    for (std::size_t row = 0; row < rows; ++row)
    {
        std::memcpy(picture.rgb.data() + row * picture.line(), image.rgb + row * rowBytes, picture.line());
    }
    // What lies between the passes is rounded to 8 bits, so that their order shows. Pillow up to 12 always begins with
    // the rows.
    bool const columnsFirst
        = image.height > height && image.height - height > 2 * (std::int64_t{image.width} - width);
    return columnsFirst ? withWidth(withHeight(picture, height), width).rgb
                        : withHeight(withWidth(picture, width), height).rgb;
}

} // namespace memvp
