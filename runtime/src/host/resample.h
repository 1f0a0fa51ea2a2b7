// Bicubic resizing of 8-bit pictures, bit for bit as Pillow 13 does it.
#pragma once

#include "memvp/image.h"

#include <cstdint>
#include <vector>

namespace memvp
{

// The picture at another size, RGB without gaps: [height, width, 3].
std::vector<std::uint8_t> resized(Image const& image, int height, int width);

} // namespace memvp
