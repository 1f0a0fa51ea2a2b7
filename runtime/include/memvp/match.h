// Images and the texts of labels -> the label whose text lies nearest (apt-clip).
#pragma once

#include "memvp/classify.h"
#include "memvp/image.h"
#include "memvp/json.h"
#include "memvp/tensor.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace memvp
{

// What the texts of labels are to a model: as many points of one space. Images can be compared with them as often as
// wanted.
struct Labels
{
    std::size_t count = 0;
    // [count,width]
    std::vector<float> points;
    std::size_t width = 0;
    // Whether a text was too long, and lost what is before its last token.
    bool truncated = false;
};

// What `image_encoder` and `text_encoder` take and give, from the manifest and the engines' entries (or the manifest's
// own of the components).
class LabelMatcher
{
public:
    // Throws InputError where the parts do not fit together.
    LabelMatcher(Json const& manifest, Json const& imageEncoder, Json const& textEncoder);

    // Images, and texts, that one call takes at most.
    std::int64_t maxImages() const noexcept
    {
        return mMaxImages;
    }
    std::int64_t maxTexts() const noexcept
    {
        return mMaxTexts;
    }

    // What `text_encoder` takes for the ids of these texts, with those that open and close them, padded on the right to
    // the longest. Throws InputError for a text that is empty or has ids that the tokenizer lacks.
    Tensors texts(std::vector<std::vector<std::int64_t>> const& rows) const;

    // Add what `text_encoder` gave for them, `text_embeds` [rows,width], float32. Throws VerdictError where a value is
    // not finite.
    void add(Labels& labels, std::vector<std::vector<std::int64_t>> const& rows, Tensor const& points) const;

    // What `image_encoder` takes for these images.
    Tensors images(std::vector<Image> const& images) const;

    // The nearest label of each image, by what `image_encoder` gave, `image_embeds` [B,width], float32. The logits are
    // exp(logit_scale) image_embeds text_embeds^T; labels have no names here. Throws InputError for no labels, or those
    // of another model, VerdictError where a value is not finite.
    std::vector<Class> nearest(Tensor const& points, Labels const& labels) const;

private:
    Preprocessing mPreprocessing;
    float mFactor = 1;
    std::int64_t mMaxImages = 1;
    std::int64_t mMaxTexts = 1;
    std::size_t mLongest = 1;
    std::int64_t mPieces = 0;
    std::int64_t mPad = 0;
};

// The shares of the classes of these logits, which make 1 together: their softmax.
std::vector<double> shares(std::vector<float> const& logits);

} // namespace memvp
