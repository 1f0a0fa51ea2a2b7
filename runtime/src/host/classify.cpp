#include "memvp/classify.h"

#include "memvp/errors.h"
#include "shapes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace memvp
{
namespace
{

template <typename Number>
Tensor tensorOf(char const* dtype, Shape shape, std::vector<Number> const& numbers)
{
    Tensor tensor{dtype, std::move(shape), {}};
    tensor.bytes.resize(numbers.size() * sizeof(Number));
    std::memcpy(tensor.bytes.data(), numbers.data(), tensor.bytes.size());
    return tensor;
}

Range rangeOf(std::map<std::string, Range> const& ranges, std::string const& dim)
{
    auto const found = ranges.find(dim);
    if (found == ranges.end())
    {
        throw InputError("the engine of model has no dimension " + dim + ".");
    }
    return found->second;
}

} // namespace

Classifier::Classifier(Json const& manifest, Json const& entry)
    : mPreprocessing(manifest.at("preprocessing"))
{
    for (auto const& port : entry.at("inputs").array())
    {
        mInputs.push_back(port.at("name").string());
        mImages += mInputs.back().compare(0, 12, "pixel_values") == 0;
    }
    auto const& outputs = entry.at("outputs").array();
    auto const* const dims = outputs.empty() ? nullptr : &outputs[0].at("dims").array();
    if (!dims || dims->size() != 2 || !dims->back().isInteger() || outputs[0].at("dtype").string() != "float32")
    {
        throw InputError("the bundle is of the family " + manifest.at("family").string()
            + ", whose model gives no classes and no score.");
    }
    mOutput = outputs[0].at("name").string();
    mClasses = static_cast<std::size_t>(dims->back().integer());
    auto const& labels = manifest.at("labels");
    for (auto const& label : labels.isNull() ? std::vector<Json>() : labels.array())
    {
        mLabels.push_back(label.string());
    }
    if (!labels.isNull() && mLabels.size() != mClasses)
    {
        throw InputError("the manifest has " + std::to_string(mLabels.size()) + " labels, its model "
            + std::to_string(mClasses) + " classes.");
    }
    auto const ranges = builtRanges(entry);
    auto const& tokenizer = manifest.at("tokenizer");
    mMaxBatch = rangeOf(ranges, "batch").highest;
    mLongest = static_cast<std::size_t>(
        std::max<std::int64_t>(1, std::min(tokenizer.at("maximum").integer(), rangeOf(ranges, "sequence").highest)));
    mPad = tokenizer.at("pad").integer();
    mSep = tokenizer.at("sep").integer();
}

Tensors Classifier::inputs(std::vector<Pair> const& pairs) const
{
    std::size_t width = 0;
    for (std::size_t index = 0; index < pairs.size(); ++index)
    {
        if (pairs[index].ids.empty())
        {
            throw InputError("the text of pair " + std::to_string(index) + " is empty.");
        }
        if (pairs[index].images.size() != mImages)
        {
            throw InputError("pair " + std::to_string(index) + " has " + std::to_string(pairs[index].images.size())
                + " images; this model looks at " + std::to_string(mImages) + ".");
        }
        width = std::max(width, std::min(pairs[index].ids.size(), mLongest));
    }
    std::vector<std::int64_t> ids;
    std::vector<std::int64_t> mask;
    for (auto const& pair : pairs)
    {
        auto const held = std::min(pair.ids.size(), mLongest);
        ids.insert(ids.end(), pair.ids.begin(), pair.ids.begin() + static_cast<std::ptrdiff_t>(held));
        // What is cut never loses the id that closes it.
        ids.back() = held < pair.ids.size() ? mSep : ids.back();
        ids.insert(ids.end(), width - held, mPad);
        mask.insert(mask.end(), held, 1);
        mask.insert(mask.end(), width - held, 0);
    }
    auto const batch = static_cast<std::int64_t>(pairs.size());
    Shape const text{batch, static_cast<std::int64_t>(width)};
    Tensors found{{"input_ids", tensorOf("int64", text, ids)}, {"attention_mask", tensorOf("int64", text, mask)}};
    for (std::size_t number = 0; number < mImages; ++number)
    {
        auto const suffix = number ? "_" + std::to_string(number + 1) : std::string();
        bool const masked = std::find(mInputs.begin(), mInputs.end(), "pixel_mask" + suffix) != mInputs.end();
        std::vector<float> pixels;
        std::vector<std::int64_t> filled;
        for (auto const& pair : pairs)
        {
            auto const made = mPreprocessing.pixels(pair.images[number]);
            pixels.insert(pixels.end(), made.begin(), made.end());
            auto const part = masked ? mPreprocessing.mask(pair.images[number]) : std::vector<std::int64_t>();
            filled.insert(filled.end(), part.begin(), part.end());
        }
        auto const height = std::int64_t{mPreprocessing.height()};
        auto const side = std::int64_t{mPreprocessing.width()};
        found["pixel_values" + suffix] = tensorOf("float32", {batch, 3, height, side}, pixels);
        if (masked)
        {
            found["pixel_mask" + suffix] = tensorOf("int64", {batch, height, side}, filled);
        }
    }
    return found;
}

std::vector<Class> Classifier::classes(std::vector<Pair> const& pairs, Tensor const& output) const
{
    std::vector<float> values(output.bytes.size() / sizeof(float));
    std::memcpy(values.data(), output.bytes.data(), values.size() * sizeof(float));
    if (values.size() != pairs.size() * mClasses)
    {
        throw InputError("the model gave " + std::to_string(values.size()) + " values of " + mOutput + " for "
            + std::to_string(pairs.size()) + " pairs.");
    }
    if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
    {
        throw VerdictError("the model gave " + mOutput
            + " that are not finite: its precision overflows on this input. Run `memvp-export check` on the bundle, or "
              "export it in another precision.");
    }
    std::vector<Class> found;
    for (std::size_t index = 0; index < pairs.size(); ++index)
    {
        auto const first = values.begin() + static_cast<std::ptrdiff_t>(index * mClasses);
        Class made;
        made.logits.assign(first, first + static_cast<std::ptrdiff_t>(mClasses));
        made.truncated = pairs[index].ids.size() > mLongest;
        made.index = std::max_element(made.logits.begin(), made.logits.end()) - made.logits.begin();
        if (mClasses > 1)
        {
            made.label = mLabels.empty() ? std::to_string(made.index) : mLabels[static_cast<std::size_t>(made.index)];
        }
        found.push_back(std::move(made));
    }
    return found;
}

} // namespace memvp
