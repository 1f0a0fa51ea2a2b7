#include "fake_models.h"

#include "cache_plan.h"
#include "closed_form.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace fake
{

using nvinfer1::DataType;

std::map<std::string, Kind> const kKINDS{{"float32", {DataType::kFLOAT, 4}}, {"float16", {DataType::kHALF, 2}},
    {"int64", {DataType::kINT64, 8}}, {"int32", {DataType::kINT32, 4}}, {"fp8", {DataType::kFP8, 1}}};

namespace
{

// Whole numbers from 0 to 2047 in half precision.
std::uint16_t halfOf(std::int64_t value)
{
    int exponent = 0;
    while (value >> (exponent + 1))
    {
        ++exponent;
    }
    return value == 0 ? 0
                      : static_cast<std::uint16_t>(
                          (exponent + 15) << 10 | ((value << (10 - exponent)) & 0x3ff));
}

std::int64_t wholeOf(std::uint16_t half)
{
    int const exponent = (half >> 10 & 31) - 15;
    return half == 0 ? 0 : std::lround(std::ldexp(1.0 + (half & 0x3ff) / 1024.0, exponent));
}

void computeVision(Tensors const& tensors)
{
    bool const features = tensors.count("image_features");
    auto const& pixels = tensors.at(features ? "image_features" : "pixel_values");
    auto const& memory = tensors.at("visual_memory");
    auto const batch = static_cast<std::size_t>(pixels.shape[0]);
    auto const image = pixels.count() / batch;
    auto const row = memory.count() / batch;
    for (std::size_t index = 0; index < batch; ++index)
    {
        std::int64_t bright = 0;
        for (std::size_t at = 0; at < image; ++at)
        {
            float value = 0;
            std::memcpy(&value, pixels.data + (index * image + at) * 4, 4);
            bright += value > 0;
        }
        for (std::size_t at = 0; at < row; ++at)
        {
            auto const seen = tensors.count("image_indicator") ? tensors.at("image_indicator").at(index) : 1;
            memory.put(index * row + at, static_cast<float>(seen * (bright % 13)));
        }
    }
}

// What sets the entries of one cache apart from those of the others.
std::int64_t tagOf(std::string const& name, std::size_t heads, std::size_t head, std::size_t place)
{
    auto const layer = std::stoi(name.substr(name.find('.') + 1));
    bool const value = name.substr(name.rfind('.') + 1) == "value";
    bool const read = name.find(".encoder.") != std::string::npos;
    return 2 * layer + value + 4 * read + 8 * static_cast<std::int64_t>(head + heads * place);
}

// What a row is about; 0 of a component without the memory.
std::int64_t visualOf(Tensors const& tensors, std::size_t row, std::size_t batch)
{
    auto const found = tensors.find("visual_memory");
    return found == tensors.end() ? 0 : found->second.at(row * (found->second.count() / batch));
}

// Each layer, head and place of what the encoder leaves has the same, but for its tag.
void computeEncoder(Tensors const& tensors)
{
    auto const& ids = tensors.at("input_ids");
    auto const batch = static_cast<std::size_t>(ids.shape[0]);
    auto const columns = static_cast<std::size_t>(ids.shape[1]);
    for (auto const& [name, left] : tensors)
    {
        for (std::size_t at = 0; at < left.count() && !memvp::pastOf(name).empty(); ++at)
        {
            auto const size = static_cast<std::size_t>(left.shape[3]);
            auto const heads = static_cast<std::size_t>(left.shape[1]);
            auto const column = at / size % columns;
            auto const row = at / size / columns / heads;
            auto const key = memvp::readKeyOf(ids.at(row * columns + column), static_cast<std::int64_t>(column),
                visualOf(tensors, row, batch));
            left.put(at, static_cast<float>(key + tagOf(name, heads, at / size / columns % heads, at % size)));
        }
    }
}

// The sum of what the encoder left of the visible columns of a row, which all of its caches must have alike.
std::int64_t readSum(Tensors const& tensors, std::size_t row)
{
    auto const& mask = tensors.at("encoder_attention_mask");
    auto const columns = static_cast<std::size_t>(mask.shape[1]);
    std::vector<std::int64_t> all;
    for (auto const& [name, left] : tensors)
    {
        if (name.find(".encoder.") == std::string::npos)
        {
            continue;
        }
        auto const size = static_cast<std::size_t>(left.shape[3]);
        auto const heads = static_cast<std::size_t>(left.shape[1]);
        for (std::size_t head = 0; head < heads; ++head)
        {
            for (std::size_t place = 0; place < size; ++place)
            {
                std::vector<std::int64_t> found;
                for (std::size_t column = 0; column < columns; ++column)
                {
                    auto const at = ((row * heads + head) * columns + column) * size + place;
                    found.push_back(left.at(at) - tagOf(name, heads, head, place));
                }
                if (!all.empty() && all != found)
                {
                    stop(name + " is not what the encoder left");
                }
                all = found;
            }
        }
    }
    std::int64_t sum = 0;
    for (std::size_t column = 0; column < columns; ++column)
    {
        sum += mask.at(row * columns + column) ? all[column] : 0;
    }
    return sum;
}

void computeDecoder(Tensors const& tensors, std::string const& kind)
{
    bool const behind = tensors.count("encoder_attention_mask");
    auto const& ids = tensors.at("input_ids");
    auto const& logits = tensors.at("logits");
    auto const batch = static_cast<std::size_t>(ids.shape[0]);
    auto const columns = static_cast<std::size_t>(ids.shape[1]);
    auto const held = behind ? static_cast<std::size_t>(tensors.at("past_key_values.0.decoder.key").shape[2])
                             : static_cast<std::size_t>(tensors.at("attention_mask").shape[1]) - columns;
    auto const width = held + columns;
    auto const vocabulary = static_cast<std::size_t>(logits.shape[2]);
    for (std::size_t row = 0; row < batch; ++row)
    {
        auto const image = visualOf(tensors, row, batch);
        std::vector<std::int64_t> keys;
        for (std::size_t column = 0; column < columns; ++column)
        {
            auto const at = row * columns + column;
            auto const position
                = behind ? static_cast<std::int64_t>(held + column) : tensors.at("position_ids").at(at);
            keys.push_back(memvp::keyOf(ids.at(at), position, image));
        }
        std::vector<std::int64_t> all;
        for (auto const& [name, past] : tensors)
        {
            auto const present = tensors.find(memvp::presentOf(name));
            if (present == tensors.end())
            {
                continue;
            }
            auto const heads = static_cast<std::size_t>(past.shape[1]);
            auto const size = static_cast<std::size_t>(past.shape[3]);
            auto const pastLength = static_cast<std::size_t>(past.shape[2]);
            auto const presentLength = static_cast<std::size_t>(present->second.shape[2]);
            for (std::size_t head = 0; head < heads; ++head)
            {
                for (std::size_t place = 0; place < size; ++place)
                {
                    auto const tag = tagOf(name, heads, head, place);
                    auto const start = row * heads + head;
                    std::vector<std::int64_t> found;
                    for (std::size_t column = 0; column < held; ++column)
                    {
                        found.push_back(past.at((start * pastLength + column) * size + place) - tag);
                    }
                    found.insert(found.end(), keys.begin(), keys.end());
                    if (!all.empty() && all != found)
                    {
                        stop(name + " lost its past");
                    }
                    all = found;
                    auto const first = kind == "concat" ? 0 : held;
                    auto const shift = kind == "delta" ? held : 0;
                    for (std::size_t column = first; column < width; ++column)
                    {
                        auto const at = (start * presentLength + column - shift) * size + place;
                        present->second.put(at, static_cast<float>(found[column] + tag));
                    }
                }
            }
        }
        all = all.empty() ? keys : all;
        auto const count = static_cast<std::size_t>(logits.shape[1]);
        for (std::size_t index = 0; index < count; ++index)
        {
            auto const last = held
                + (behind ? index : static_cast<std::size_t>(tensors.at("logits_positions").at(row * count + index)));
            std::int64_t sum = behind ? readSum(tensors, row) : 0;
            for (std::size_t column = 0; column <= last; ++column)
            {
                bool const visible = behind || tensors.at("attention_mask").at(row * width + column) != 0;
                sum += visible ? memvp::partOf(all[column], static_cast<std::int64_t>(column)) : 0;
            }
            for (std::size_t token = 0; token < vocabulary; ++token)
            {
                auto const value = (behind ? memvp::writtenLogitOf : memvp::logitOf)(
                    sum, static_cast<std::int64_t>(token), image);
                // An image of this brightness is more than the model's precision bears.
                logits.put((row * count + index) * vocabulary + token, image == 12 ? INFINITY : value);
            }
        }
    }
}

// Points of images are sums of their bright samples over every third place, those of texts sums of ids at their places.
void computePoints(Tensors const& tensors, bool image)
{
    auto const& points = tensors.at(image ? "image_embeds" : "text_embeds");
    auto const& taken = tensors.at(image ? "pixel_values" : "input_ids");
    auto const batch = static_cast<std::size_t>(taken.shape[0]);
    auto const size = taken.count() / batch;
    auto const width = static_cast<std::size_t>(points.shape[1]);
    for (std::size_t row = 0; row < batch; ++row)
    {
        std::vector<std::int64_t> sums(width, 0);
        for (std::size_t at = 0; at < size; ++at)
        {
            float value = 0;
            std::memcpy(&value, taken.data + (row * size + at) * kKINDS.at(taken.dtype).size, 4);
            auto const text = image ? 0 : tensors.at("attention_mask").at(row * size + at) * taken.at(row * size + at);
            sums[at % width] += image ? value > 0 : text * static_cast<std::int64_t>(at + 1);
        }
        for (std::size_t at = 0; at < width; ++at)
        {
            // Points of unit length need roots; whole numbers are the same everywhere.
            points.put(row * width + at, static_cast<float>(sums[at] % 17 - 8));
        }
    }
}

// Every place of a text and every bright sample of an image counts.
void computeModel(Tensors const& tensors)
{
    auto const& ids = tensors.at("input_ids");
    auto const& logits = tensors.at("logits");
    auto const batch = static_cast<std::size_t>(ids.shape[0]);
    auto const columns = static_cast<std::size_t>(ids.shape[1]);
    for (std::size_t row = 0; row < batch; ++row)
    {
        std::int64_t sum = 0;
        for (std::size_t at = row * columns; at < (row + 1) * columns; ++at)
        {
            sum += ids.at(at) * tensors.at("attention_mask").at(at) * static_cast<std::int64_t>(at - row * columns + 1);
        }
        for (auto const& [name, tensor] : tensors)
        {
            auto const size = tensor.count() / batch;
            auto const weight = name.back() == '2' ? 5 : 3;
            for (std::size_t at = row * size; at < (row + 1) * size && name.compare(0, 6, "pixel_") == 0; ++at)
            {
                float value = 0;
                std::memcpy(&value, tensor.data + at * kKINDS.at(tensor.dtype).size, 4);
                sum += weight * (tensor.dtype == "int64" ? tensor.at(at) : value > 0);
            }
        }
        auto const classes = static_cast<std::size_t>(logits.shape[1]);
        for (std::size_t index = 0; index < classes; ++index)
        {
            logits.put(row * classes + index, static_cast<float>(sum * static_cast<std::int64_t>(index + 2) % 31));
        }
    }
}

} // namespace

std::size_t Tensor::count() const
{
    std::size_t product = 1;
    for (auto const length : shape)
    {
        product *= static_cast<std::size_t>(length);
    }
    return product;
}

std::int64_t Tensor::at(std::size_t index) const
{
    auto const* const place = data + index * kKINDS.at(dtype).size;
    std::int64_t whole = 0;
    float real = 0;
    std::uint16_t half = 0;
    std::int32_t narrow = 0;
    switch (kKINDS.at(dtype).type)
    {
    case DataType::kFLOAT: std::memcpy(&real, place, 4); return std::lround(real);
    case DataType::kHALF: std::memcpy(&half, place, 2); return wholeOf(half);
    case DataType::kINT32: std::memcpy(&narrow, place, 4); return narrow;
    default: std::memcpy(&whole, place, 8); return whole;
    }
}

void Tensor::put(std::size_t index, float value) const
{
    auto* const place = data + index * kKINDS.at(dtype).size;
    if (dtype == "float16")
    {
        auto const half = halfOf(std::lround(value));
        std::memcpy(place, &half, 2);
        return;
    }
    std::memcpy(place, &value, 4);
}

void stop(std::string const& why)
{
    std::fprintf(stderr, "the fake TensorRT: %s\n", why.c_str());
    std::abort();
}

void compute(std::string const& component, std::string const& kind, Tensors const& tensors)
{
    bool const image = component == "image_encoder";
    component == "vision"                      ? computeVision(tensors)
        : component == "model"                 ? computeModel(tensors)
        : component == "encoder"               ? computeEncoder(tensors)
        : image || component == "text_encoder" ? computePoints(tensors, image)
                                               : computeDecoder(tensors, kind);
}

} // namespace fake
