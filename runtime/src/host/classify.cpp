#include "memvp/classify.h"

#include "finite.h"
#include "known_ids.h"
#include "memvp/errors.h"
#include "padding.h"
#include "shapes.h"
#include "tensor_of.h"

#include <algorithm>

namespace memvp
{

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
    if (!dims || dims->size() != 2 || !dims->back().isInteger() || dims->back().integer() < 1
        || outputs[0].at("dtype").string() != "float32")
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
    mMaxBatch = highest(ranges, "batch", entry, 1);
    mLongest = static_cast<std::size_t>(std::max<std::int64_t>(
        1, std::min(tokenizer.at("maximum").integer(), highest(ranges, "sequence", entry, 1))));
    mPieces = tokenizer.at("pieces").integer();
    mPad = tokenizer.at("pad").integer();
}

Tensors Classifier::inputs(std::vector<Pair> const& pairs) const
{
    std::vector<std::vector<std::int64_t>> rows;
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
        rows.push_back(pairs[index].ids);
    }
    requireKnown(rows, mPieces);
    auto const texts = paddedTexts(rows, mLongest, mPad);
    auto const batch = static_cast<std::int64_t>(pairs.size());
    Shape const shape{batch, static_cast<std::int64_t>(texts.width)};
    Tensors found{{"input_ids", tensorOf("int64", shape, texts.ids)},
        {"attention_mask", tensorOf("int64", shape, texts.mask)}};
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
    auto const values = floatsOf(output);
    if (values.size() != pairs.size() * mClasses)
    {
        throw InputError("the model gave " + std::to_string(values.size()) + " values of " + mOutput + " for "
            + std::to_string(pairs.size()) + " pairs.");
    }
    requireFinite(values.data(), values.size(), ("the model gave " + mOutput).c_str());
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
