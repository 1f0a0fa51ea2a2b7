// Text and image -> answer with MemVP on an encoder-decoder (memvp-bart, memvp-t5) over any encoder and decoder, as
// transformers' generate() writes it without sampling.
#pragma once

#include "memvp/generate.h"
#include "memvp/json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace memvp
{

// One call of an encoder: B texts of S ids, padded on the right. All tensors are row-major.
struct EncoderCall
{
    std::int64_t batch;
    std::int64_t columns;
    // [B,S]
    std::vector<std::int64_t> inputIds;
    // [B,S], 0 in padding
    std::vector<std::int64_t> attentionMask;
    // Rows that the decoder has for each text, one behind the other.
    std::int64_t copies;
};

class Encoder
{
public:
    virtual ~Encoder() = default;

    // Leave what the texts are to the decoder, until they are others.
    virtual void run(EncoderCall const& call) = 0;
};

// When a row of a beam search ends that has as many ended beams as beams.
enum class EarlyStopping
{
    // When the best that goes on has, at its length, no better score than the worst ended one.
    kNO,
    // Then.
    kYES,
    // When the best that goes on could have no better score at the greatest length either.
    kNEVER
};

// What a manifest's `generation` says of writing. Lengths count the start token.
struct WritingRules
{
    // The token before the first.
    std::int64_t start = 0;
    // No run of so many ids comes twice; 0 allows all.
    std::int64_t noRepeatNgram = 0;
    // The end-of-sentence token comes only behind so many ids.
    std::int64_t minLength = 0;
    // The id behind the start token, and the one that ends ids of the greatest length.
    std::optional<std::int64_t> forcedFirst;
    std::optional<std::int64_t> forcedLast;
    // Of beams: an ended one of n new tokens has the score log probability / n^lengthPenalty.
    double lengthPenalty = 1;
    EarlyStopping earlyStopping = EarlyStopping::kNO;
};

// What encoder, decoder and tokenizer take and give.
struct EncoderDecoderLimits
{
    // Ids of a text that are read, and tokens that are written.
    std::int64_t maxRead;
    std::int64_t maxWritten;
    // Rows of the decoder.
    std::int64_t maxBatch;
    // Logits of a column, and how many of them are tokens.
    std::int64_t vocabulary;
    std::int64_t pieces;
    std::int64_t pad;
    std::int64_t eos;
    bool cached;
    // Of the decoder's engine, where it is known.
    std::string precision;
    WritingRules rules;
};

// Whether the model of a bundle writes after an encoder.
bool writesAfterEncoder(Json const& manifest);

// Of the manifest's `tokenizer` and `generation`, and of the engines' entries. Throws InputError where they do not
// belong together.
EncoderDecoderLimits encoderDecoderLimits(Json const& manifest, Json const& encoder, Json const& decoder);

// How many questions are run together. Throws InputError for settings out of range.
std::int64_t batchSize(Settings const& settings, EncoderDecoderLimits const& limits);

// Answers to one batch of texts, which come with the tokens that open and close them; a text that is too long loses
// what is before its last one. Throws InputError for a text that is empty or has ids that the tokenizer lacks,
// VerdictError where the decoder gives logits that are not finite.
std::vector<Answer> generate(Encoder& encoder, Decoder& decoder, std::vector<std::vector<std::int64_t>> const& texts,
    Settings const& settings, EncoderDecoderLimits const& limits);

} // namespace memvp
