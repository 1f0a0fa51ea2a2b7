#include "memvp/match.h"

#include "finite.h"
#include "known_ids.h"
#include "padding.h"
#include "shapes.h"
#include "tensor_of.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

namespace memvp
{
namespace
{

float factorOf(Json const& manifest)
{
    auto const* const similarity = manifest.find("similarity");
    if (!similarity || !similarity->is(Json::Type::kOBJECT) || !similarity->find("logit_scale"))
    {
        throw InputError("the manifest lacks similarity, with logit_scale and template: export the bundle again.");
    }
    auto const& scale = similarity->at("logit_scale");
    if (!scale.isNumber() || !(std::abs(scale.real()) < std::log(1e30)))
    {
        throw InputError("logit_scale is " + scale.repr() + ", which is no factor's logarithm.");
    }
    return static_cast<float>(std::exp(scale.real()));
}

// Points [rows,width]. Throws VerdictError where a value is not finite.
std::vector<float> pointsOf(Tensor const& tensor, std::size_t rows, char const* gave)
{
    auto points = floatsOf(tensor);
    if (rows == 0 || tensor.dtype != "float32" || points.empty() || points.size() % rows)
    {
        throw InputError(std::string(gave) + " that are no points of " + std::to_string(rows) + " rows.");
    }
    requireFinite(points.data(), points.size(), gave);
    return points;
}

} // namespace

LabelMatcher::LabelMatcher(Json const& manifest, Json const& imageEncoder, Json const& textEncoder)
    : mPreprocessing(manifest.at("preprocessing"))
    , mFactor(factorOf(manifest))
{
    auto const& tokenizer = manifest.at("tokenizer");
    auto const read = builtRanges(textEncoder);
    mMaxImages = highest(builtRanges(imageEncoder), "batch", imageEncoder, 1);
    mMaxTexts = highest(read, "batch", textEncoder, 1);
    mLongest = static_cast<std::size_t>(std::max<std::int64_t>(
        1, std::min(tokenizer.at("maximum").integer(), highest(read, "sequence", textEncoder, 1))));
    mPieces = tokenizer.at("pieces").integer();
    mPad = tokenizer.at("pad").integer();
}

Tensors LabelMatcher::texts(std::vector<std::vector<std::int64_t>> const& rows) const
{
    if (std::any_of(rows.begin(), rows.end(), [](auto const& row) { return row.empty(); }))
    {
        throw InputError("the text of a label is empty: it has at least the tokens that open and close it.");
    }
    requireKnown(rows, mPieces);
    auto const texts = paddedTexts(rows, mLongest, mPad);
    std::vector<std::int64_t> const shape{
        static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(texts.width)};
    return {{"input_ids", tensorOf("int64", shape, texts.ids)},
        {"attention_mask", tensorOf("int64", shape, texts.mask)}};
}

void LabelMatcher::add(
    Labels& labels, std::vector<std::vector<std::int64_t>> const& rows, Tensor const& points) const
{
    auto const found = pointsOf(points, rows.size(), "the model gave text_embeds");
    labels.count += rows.size();
    labels.width = found.size() / rows.size();
    labels.points.insert(labels.points.end(), found.begin(), found.end());
    for (auto const& row : rows)
    {
        labels.truncated = labels.truncated || row.size() > mLongest;
    }
}

Tensors LabelMatcher::images(std::vector<Image> const& images) const
{
    std::vector<float> pixels;
    for (auto const& image : images)
    {
        auto const made = mPreprocessing.pixels(image);
        pixels.insert(pixels.end(), made.begin(), made.end());
    }
    std::vector<std::int64_t> const shape{
        static_cast<std::int64_t>(images.size()), 3, mPreprocessing.height(), mPreprocessing.width()};
    return {{"pixel_values", tensorOf("float32", shape, pixels)}};
}

std::vector<Class> LabelMatcher::nearest(Tensor const& points, Labels const& labels) const
{
    auto const rows = points.shape.empty() ? 0 : static_cast<std::size_t>(points.shape[0]);
    auto const found = pointsOf(points, rows, "the model gave image_embeds");
    auto const width = found.size() / rows;
    if (labels.count == 0 || labels.width != width || labels.points.size() != labels.count * width)
    {
        throw InputError(labels.count ? "the labels are those of another model: let this one read them."
                                      : "there are no labels to compare the images with.");
    }
    std::vector<Class> made(rows);
    for (std::size_t row = 0; row < rows; ++row)
    {
        for (std::size_t label = 0; label < labels.count; ++label)
        {
            auto const first = labels.points.begin() + static_cast<std::ptrdiff_t>(label * width);
            auto const image = found.begin() + static_cast<std::ptrdiff_t>(row * width);
            auto const product = std::inner_product(first, first + static_cast<std::ptrdiff_t>(width), image, 0.0);
            made[row].logits.push_back(mFactor * static_cast<float>(product));
        }
        auto const& logits = made[row].logits;
        made[row].index = std::max_element(logits.begin(), logits.end()) - logits.begin();
        made[row].truncated = labels.truncated;
    }
    return made;
}

std::vector<double> shares(std::vector<float> const& logits)
{
    auto const highestLogit = logits.empty() ? 0.0F : *std::max_element(logits.begin(), logits.end());
    std::vector<double> found;
    double sum = 0;
    for (auto const logit : logits)
    {
        found.push_back(std::exp(static_cast<double>(logit) - static_cast<double>(highestLogit)));
        sum += found.back();
    }
    for (auto& share : found)
    {
        share /= sum;
    }
    return found;
}

} // namespace memvp
