// Greedy generation with MemVP-LLaMA over any decoder, as the paper's generate() does it.
#pragma once

#include "memvp/json.h"

#include <cstdint>
#include <vector>

namespace memvp
{

// How answers are generated.
struct Settings
{
    // At least 1. It ends earlier where every row has had its end-of-sentence token.
    std::int64_t maxNewTokens = 1;
    // Questions that are run together; 0: as many as the engine takes, at most 8.
    std::int64_t batch = 0;
    // Keep the logits of every new token. Not with beams.
    bool keepLogits = false;
    // 1: each next token is the most probable one. More: the most probable answer that so many beams find, of models
    // that write after an encoder.
    std::int64_t beams = 1;
};

struct Answer
{
    // The new tokens, without the end-of-sentence token and what may come behind it.
    std::vector<std::int64_t> ids;
    // Whether the prompt was too long, and lost its end.
    bool truncated = false;
    // Where they are kept: [new tokens, vocabulary], for every token that was made, the end-of-sentence token too.
    std::vector<std::vector<float>> logits;
};

// One call of a decoder: B rows of T new columns after P of past. All tensors are row-major.
struct DecoderCall
{
    std::int64_t batch;
    std::int64_t columns;
    std::int64_t past;
    // [B,T]
    std::vector<std::int64_t> inputIds;
    // [B,P+T], 0 in padding
    std::vector<std::int64_t> attentionMask;
    // [B,T]; padding counts, since only distances matter
    std::vector<std::int64_t> positionIds;
    // [B,K], columns of this call. A decoder behind an encoder takes none of these three, and gives logits of all.
    std::vector<std::int64_t> logitsPositions;
    // Whether the columns must be held for a later call.
    bool keep;
};

// A decoder with the cache of one batch.
class Decoder
{
public:
    virtual ~Decoder() = default;

    // Hold nothing of the rows before, and be ready for a batch of B.
    virtual void begin(std::int64_t batch) = 0;

    // Logits [B,K,V].
    virtual std::vector<float> run(DecoderCall const& call) = 0;

    // Let each row go on from what the row that `rows` [B] names for it has held.
    virtual void reorder(std::vector<std::int64_t> const& rows) = 0;
};

// What a decoder and its tokenizer take and give.
struct DecoderLimits
{
    // Columns of prompt and answer together.
    std::int64_t maxSequence;
    std::int64_t maxBatch;
    // New columns of one call.
    std::int64_t chunk;
    // Columns of one call whose logits can be had.
    std::int64_t positions;
    // Logits of a column, and how many of them are tokens.
    std::int64_t vocabulary;
    std::int64_t pieces;
    std::int64_t pad;
    std::int64_t eos;
    bool cached;
};

// Of the manifest's `tokenizer`, and of the engine's entry of the decoder. Throws InputError where they do not belong
// together.
DecoderLimits decoderLimits(Json const& manifest, Json const& entry);

// How many questions are run together. Throws InputError for settings out of range.
std::int64_t batchSize(Settings const& settings, DecoderLimits const& limits);

// Answers to one batch of prompts, whose rows are padded on the left. Throws InputError for a prompt that is empty or
// has ids that the tokenizer lacks, VerdictError where the decoder gives logits that are not finite.
std::vector<Answer> generate(Decoder& decoder, std::vector<std::vector<std::int64_t>> const& prompts,
    Settings const& settings, DecoderLimits const& limits);

// Logits [B,K,V] at the columns `positions` [B,K] of whole rows, padded on the left to the longest one. Throws
// InputError for ids that the tokenizer lacks, and for columns that there are not.
std::vector<float> columnLogits(Decoder& decoder, std::vector<std::vector<std::int64_t>> const& rows,
    std::vector<std::int64_t> const& positions, DecoderLimits const& limits);

} // namespace memvp
