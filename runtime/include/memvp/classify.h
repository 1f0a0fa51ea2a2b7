// Texts and images -> classes or scores, for the families that answer in one pass of `model` (apt-vilt, apt-meter).
#pragma once

#include "memvp/image.h"
#include "memvp/json.h"
#include "memvp/tensor.h"

#include <cstdint>
#include <string>
#include <vector>

namespace memvp
{

// A text as token ids, with those that open and close it ([CLS] and [SEP]), and as many images as the model looks at.
struct Pair
{
    std::vector<std::int64_t> ids;
    std::vector<Image> images;
};

struct Class
{
    // The most probable class and its name, its number where the manifest has no labels; of a model that gives the
    // score of a text and an image, 0 and nothing.
    std::int64_t index = 0;
    std::string label;
    // Logits of all classes, or the one score.
    std::vector<float> logits;
    // Whether the text was too long, and lost its end.
    bool truncated = false;
};

// What `model` takes and gives, from the manifest and the engine's entry (or the manifest's own of the component).
class Classifier
{
public:
    // Throws InputError where the parts do not fit together.
    Classifier(Json const& manifest, Json const& entry);

    // Pairs that one call takes at most.
    std::int64_t maxBatch() const noexcept
    {
        return mMaxBatch;
    }
    // The output that is read.
    std::string const& output() const noexcept
    {
        return mOutput;
    }

    // What `model` takes for these: texts padded on the right to the longest, images with the mask of what they fill
    // where it takes one. Throws InputError for a pair without text, with another number of images, or with ids that
    // the tokenizer lacks.
    Tensors inputs(std::vector<Pair> const& pairs) const;

    // What its output [B, classes], float32, says of them. Throws VerdictError where a value is not finite.
    std::vector<Class> classes(std::vector<Pair> const& pairs, Tensor const& output) const;

private:
    Preprocessing mPreprocessing;
    std::vector<std::string> mInputs;
    std::size_t mImages = 0;
    std::string mOutput;
    std::size_t mClasses = 0;
    std::vector<std::string> mLabels;
    std::int64_t mMaxBatch = 1;
    std::size_t mLongest = 1;
    std::int64_t mPieces = 0;
    std::int64_t mPad = 0;
};

} // namespace memvp
