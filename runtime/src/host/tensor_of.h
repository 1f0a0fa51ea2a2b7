// Numbers -> a tensor in host memory, and back.
#pragma once

#include "memvp/tensor.h"

#include <cstring>
#include <utility>
#include <vector>

namespace memvp
{

template <typename Number>
Tensor tensorOf(char const* dtype, std::vector<std::int64_t> shape, std::vector<Number> const& numbers)
{
    Tensor tensor{dtype, std::move(shape), {}};
    tensor.bytes.resize(numbers.size() * sizeof(Number));
    std::memcpy(tensor.bytes.data(), numbers.data(), tensor.bytes.size());
    return tensor;
}

// Of a tensor of float32.
inline std::vector<float> floatsOf(Tensor const& tensor)
{
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(float));
    return values;
}

} // namespace memvp
