// What a decoder's engine and the bundle's tokenizer leave room for.
#include "cache_plan.h"
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

std::int64_t highest(std::map<std::string, Range> const& ranges, std::string const& dim, Json const& entry)
{
    auto const found = ranges.find(dim);
    if (found == ranges.end())
    {
        throw InputError("the engine of " + entry.at("component").string() + " has no dimension " + dim
            + ": this version runs decoders as memvp-llama has them.");
    }
    return found->second.highest;
}

std::int64_t tokenOf(Json const& tokenizer, std::string const& name, std::int64_t pieces)
{
    auto const& value = tokenizer.at(name);
    if (!value.isInteger() || value.integer() < 0 || value.integer() >= pieces)
    {
        throw InputError("the manifest's tokenizer has " + name + " = " + value.repr() + ", which is no id of its "
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

} // namespace

DecoderLimits decoderLimits(Json const& manifest, Json const& entry)
{
    if (manifest.at("generation").isNull())
    {
        throw InputError(
            "the bundle is of the family " + manifest.at("family").string() + ", which generates no text.");
    }
    auto const& tokenizer = manifest.at("tokenizer");
    requireKeys(tokenizer);
    DecoderLimits limits{};
    for (auto const& port : entry.at("outputs").array())
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
    limits.pad = tokenOf(tokenizer, "pad", limits.pieces);
    limits.eos = tokenOf(tokenizer, "eos", limits.pieces);
    limits.cached = !CachePlan(entry, 1).ports().empty();
    auto const ranges = builtRanges(entry);
    limits.maxBatch = highest(ranges, "batch", entry);
    limits.chunk = highest(ranges, "sequence", entry);
    limits.positions = highest(ranges, "positions", entry);
    auto const longest = limits.cached ? highest(ranges, "past_sequence", entry) + 1 : limits.chunk;
    limits.maxSequence = std::min(tokenizer.at("maximum").integer(), longest);
    return limits;
}

std::int64_t batchSize(Settings const& settings, DecoderLimits const& limits)
{
    if (settings.maxNewTokens < 1)
    {
        throw InputError(
            "max_new_tokens is " + std::to_string(settings.maxNewTokens) + "; it must be at least 1.");
    }
    auto const size = settings.batch ? settings.batch : std::min(kDEFAULT_BATCH, limits.maxBatch);
    if (size < 1)
    {
        throw InputError("batch is " + std::to_string(size) + "; it must be at least 1.");
    }
    if (size > limits.maxBatch)
    {
        throw InputError("batch is " + std::to_string(size) + "; the decoder takes at most "
            + std::to_string(limits.maxBatch) + " rows.");
    }
    if (settings.maxNewTokens >= limits.maxSequence)
    {
        throw InputError("max_new_tokens is " + std::to_string(settings.maxNewTokens)
            + "; prompt and answer together have " + std::to_string(limits.maxSequence) + " tokens.");
    }
    if (settings.maxNewTokens > 1 && !limits.cached)
    {
        throw InputError("the decoder was built for a single pass, without caches: max_new_tokens must be 1.");
    }
    return size;
}

} // namespace memvp
