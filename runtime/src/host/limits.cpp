// What engines and the bundle's tokenizer leave room for.
#include "cache_plan.h"
#include "memvp/encoder_decoder.h"
#include "memvp/errors.h"
#include "memvp/generate.h"
#include "shapes.h"
#include "text.h"

#include <algorithm>
#include <string>

namespace memvp
{
namespace
{

constexpr std::int64_t kDEFAULT_BATCH = 8;

std::int64_t tokenOf(Json const& manifest, std::string const& part, std::string const& name, std::int64_t pieces)
{
    auto const& value = manifest.at(part).at(name);
    if (!value.isInteger() || value.integer() < 0 || value.integer() >= pieces)
    {
        throw InputError("the manifest's " + part + " has " + name + " = " + value.repr() + ", which is no id of its "
            + std::to_string(pieces) + ".");
    }
    return value.integer();
}

void requireKeys(Json const& tokenizer)
{
    std::vector<std::string> lacks;
    for (auto const* const name : {"eos", "maximum", "pad"})
    {
        if (!tokenizer.find(name))
        {
            lacks.emplace_back(name);
        }
    }
    if (!lacks.empty())
    {
        throw InputError("the manifest's tokenizer lacks " + joined(lacks) + ".");
    }
}

// What tokens are to a decoder, and how many rows it takes.
template <typename Limits>
Limits limitsOfTokens(Json const& manifest, Json const& decoder)
{
    if (manifest.at("generation").isNull())
    {
        throw InputError(
            "the bundle is of the family " + manifest.at("family").string() + ", which generates no text.");
    }
    auto const& tokenizer = manifest.at("tokenizer");
    requireKeys(tokenizer);
    Limits limits{};
    for (auto const& port : decoder.at("outputs").array())
    {
        auto const& dims = port.at("dims").array();
        if (port.at("name").string() == "logits" && !dims.empty() && dims.back().isInteger())
        {
            limits.vocabulary = dims.back().integer();
        }
    }
    auto const* const pieces = tokenizer.find("pieces");
    limits.pieces = pieces ? pieces->integer() : limits.vocabulary;
    if (limits.vocabulary < limits.pieces || limits.vocabulary < 1)
    {
        throw InputError("the tokenizer has " + std::to_string(limits.pieces) + " pieces, the decoder "
            + std::to_string(limits.vocabulary) + ": they do not belong together.");
    }
    limits.pad = tokenOf(manifest, "tokenizer", "pad", limits.pieces);
    limits.eos = tokenOf(manifest, "tokenizer", "eos", limits.pieces);
    limits.cached = !CachePlan(decoder, 1).ports().empty();
    limits.maxBatch = highest(builtRanges(decoder), "batch", decoder, 1);
    return limits;
}

WritingRules writingRules(Json const& manifest, std::int64_t pieces)
{
    auto const& generation = manifest.at("generation");
    auto const said = [&generation](char const* name) {
        auto const* const value = generation.find(name);
        return value && !value->isNull() ? value : nullptr;
    };
    auto const count = [&said](char const* name) { return said(name) ? said(name)->integer() : 0; };
    auto const token = [&](char const* name) {
        return said(name) ? std::optional(tokenOf(manifest, "generation", name, pieces)) : std::nullopt;
    };
    WritingRules rules;
    rules.start = tokenOf(manifest, "generation", "decoder_start_token_id", pieces);
    rules.noRepeatNgram = count("no_repeat_ngram_size");
    rules.minLength = count("min_length");
    rules.forcedFirst = token("forced_bos_token_id");
    rules.forcedLast = token("forced_eos_token_id");
    rules.lengthPenalty = said("length_penalty") ? said("length_penalty")->real() : 1.0;
    if (auto const* const early = said("early_stopping"))
    {
        bool const never = early->isString() && early->string() == "never";
        rules.earlyStopping = never ? EarlyStopping::kNEVER
            : early->boolean()      ? EarlyStopping::kYES
                                    : EarlyStopping::kNO;
    }
    return rules;
}

void requirePositive(char const* name, std::int64_t value)
{
    if (value < 1)
    {
        throw InputError(std::string(name) + " is " + std::to_string(value) + "; it must be at least 1.");
    }
}

// How many questions are run together, whose beams are each a row of the decoder.
std::int64_t questionsAtOnce(Settings const& settings, std::int64_t maxBatch)
{
    requirePositive("max_new_tokens", settings.maxNewTokens);
    requirePositive("batch", settings.batch ? settings.batch : 1);
    requirePositive("beams", settings.beams);
    auto const usual = std::max<std::int64_t>(1, std::min(kDEFAULT_BATCH, maxBatch / settings.beams));
    auto const size = settings.batch ? settings.batch : usual;
    if (size > maxBatch / settings.beams)
    {
        auto const most = std::to_string(maxBatch);
        auto const beams = std::to_string(settings.beams);
        throw InputError("batch is " + std::to_string(size)
            + (settings.beams > 1 ? " with " + beams + " beams each" : "") + "; the decoder takes at most " + most
            + " rows"
            + (settings.beams > maxBatch
                    ? ": give --beams " + most + " or fewer, or take engines built with --max-batch " + beams
                    : "")
            + ".");
    }
    return size;
}

void requireCache(Settings const& settings, bool cached)
{
    if (settings.maxNewTokens > 1 && !cached)
    {
        throw InputError("the decoder was built for a single pass, without caches: max_new_tokens must be 1.");
    }
}

} // namespace

DecoderLimits decoderLimits(Json const& manifest, Json const& entry)
{
    auto limits = limitsOfTokens<DecoderLimits>(manifest, entry);
    auto const ranges = builtRanges(entry);
    limits.chunk = highest(ranges, "sequence", entry, 1);
    limits.positions = highest(ranges, "positions", entry, 1);
    auto const longest = limits.cached ? highest(ranges, "past_sequence", entry) + 1 : limits.chunk;
    limits.maxSequence = std::min(manifest.at("tokenizer").at("maximum").integer(), longest);
    return limits;
}

bool writesAfterEncoder(Json const& manifest)
{
    auto const& family = manifest.at("family").string();
    return family == "memvp-bart" || family == "memvp-t5";
}

EncoderDecoderLimits encoderDecoderLimits(Json const& manifest, Json const& encoder, Json const& decoder)
{
    auto limits = limitsOfTokens<EncoderDecoderLimits>(manifest, decoder);
    auto const read = builtRanges(encoder);
    auto const written = builtRanges(decoder);
    limits.maxBatch = std::min(limits.maxBatch, highest(read, "batch", encoder, 1));
    limits.maxRead = std::min({manifest.at("tokenizer").at("maximum").integer(),
        highest(read, "encoder_sequence", encoder), highest(written, "encoder_sequence", decoder)});
    requirePositive("the longest text", limits.maxRead);
    limits.maxWritten = limits.cached ? highest(written, "past_sequence", decoder) + 1 : 1;
    if (auto const* const precision = decoder.find("precision"))
    {
        limits.precision = precision->string();
    }
    limits.rules = writingRules(manifest, limits.pieces);
    return limits;
}

std::int64_t batchSize(Settings const& settings, DecoderLimits const& limits)
{
    auto const size = questionsAtOnce(settings, limits.maxBatch);
    if (settings.beams > 1)
    {
        throw InputError("beams go with models that write after an encoder: leave them out.");
    }
    if (settings.maxNewTokens >= limits.maxSequence)
    {
        throw InputError("max_new_tokens is " + std::to_string(settings.maxNewTokens)
            + "; prompt and answer together have " + std::to_string(limits.maxSequence) + " tokens.");
    }
    requireCache(settings, limits.cached);
    return size;
}

std::int64_t batchSize(Settings const& settings, EncoderDecoderLimits const& limits)
{
    auto const size = questionsAtOnce(settings, limits.maxBatch);
    requireCache(settings, limits.cached);
    if (settings.maxNewTokens > limits.maxWritten)
    {
        throw InputError("max_new_tokens is " + std::to_string(settings.maxNewTokens) + "; the decoder writes at most "
            + std::to_string(limits.maxWritten) + " tokens.");
    }
    if (settings.keepLogits && settings.beams > 1)
    {
        throw InputError("logits are kept of answers without beams: set beams to 1, or keepLogits to false.");
    }
    return size;
}

} // namespace memvp
