// Tensors in host memory, by their names in graphs and engines.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace memvp
{

// Row-major: dtype as a manifest names it (float32, float16, bfloat16, int64, int32, bool).
struct Tensor
{
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::vector<unsigned char> bytes;
};
using Tensors = std::map<std::string, Tensor>;

} // namespace memvp
