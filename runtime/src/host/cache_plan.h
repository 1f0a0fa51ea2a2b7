// Past and present of a decoder: which ports they are, and what shape they have as the cache grows. Where the numbers
// lie is the decoder's own business.
#pragma once

#include "memvp/json.h"
#include "shapes.h"

#include <cstdint>
#include <string>
#include <vector>

namespace memvp
{

// The cache of one batch, empty at first. kCONCAT: the decoder gives the whole cache back; kDELTA: only the new
// columns, which are appended; kIN_PLACE: past and present are one buffer of the cache's capacity, in which the decoder
// writes behind what is held.
class CachePlan
{
public:
    enum class Kind
    {
        kCONCAT,
        kDELTA,
        kIN_PLACE
    };

    struct Ports
    {
        std::string past;
        std::string present;
        // With the batch; 0 on the axis that grows.
        Shape shape;
    };

    // Of a single pass.
    CachePlan() = default;

    // Of an engine's entry, or one of the manifest's `components`. Throws InputError where its parts do not fit.
    CachePlan(Json const& component, std::int64_t batch);

    // One for each key and each value; none where the decoder serves a single pass.
    std::vector<Ports> const& ports() const noexcept
    {
        return mPorts;
    }
    Kind kind() const noexcept
    {
        return mKind;
    }
    std::size_t axis() const noexcept
    {
        return mAxis;
    }
    // Columns held.
    std::int64_t length() const noexcept
    {
        return mLength;
    }

    // What the past is now: [B, heads, length, head_dim]; in place [B, heads, capacity, head_dim].
    Shape pastShape(Ports const& ports) const;

    // Check what came back of a call that ran `columns` new ones. Throws InputError where it grew by anything else: an
    // engine of another cache kind would otherwise answer from a wrong past.
    void checkPresent(Ports const& ports, Shape const& present, std::int64_t columns) const;

    // The columns of a call are held now.
    void grow(std::int64_t columns);

private:
    std::vector<Ports> mPorts;
    Kind mKind = Kind::kCONCAT;
    std::size_t mAxis = 2;
    std::int64_t mLength = 0;
};

// The lengths of calls of at most `most` new columns that together run `columns`. The shorter one comes first: then no
// call with a past reaches beyond what a full one at the end of the cache does.
std::vector<std::int64_t> pieces(std::int64_t columns, std::int64_t most);

// The output that belongs to an input of the past; empty for other inputs.
std::string presentOf(std::string const& input);

// The input that an output is for, in the next call; empty for other outputs.
std::string pastOf(std::string const& output);

} // namespace memvp
