// What the fake engines compute: vision, an encoder, the decoders of closed_form.h, a classifier and points.
#pragma once

#include "NvInferRuntime.h"
#include "shapes.h"

#include <cstdint>
#include <map>
#include <string>

namespace fake
{

struct Kind
{
    nvinfer1::DataType type;
    std::size_t size;
};
// By the name that manifests have.
extern std::map<std::string, Kind> const kKINDS;

// Memory of the device as numbers.
struct Tensor
{
    std::string dtype;
    memvp::Shape shape;
    char* data = nullptr;

    std::size_t count() const;
    std::int64_t at(std::size_t index) const;
    void put(std::size_t index, float value) const;
};
using Tensors = std::map<std::string, Tensor>;

// End the process with a word, as a crash of the real one would.
[[noreturn]] void stop(std::string const& why);

// The outputs of a component, whose cache is of this kind, from its inputs.
void compute(std::string const& component, std::string const& kind, Tensors const& tensors);

} // namespace fake
