#include "sha256.h"

#include "memvp/errors.h"
#include "sha256_blocks.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <vector>

namespace memvp
{
namespace
{

constexpr std::size_t kCHUNK = 1u << 20;

} // namespace

void Sha256::add(void const* data, std::size_t size)
{
    auto const* bytes = static_cast<unsigned char const*>(data);
    mSize += size;
    if (mHeld)
    {
        auto const taken = std::min(size, mRest.size() - mHeld);
        std::copy_n(bytes, taken, mRest.data() + mHeld);
        mHeld += taken;
        bytes += taken;
        size -= taken;
        if (mHeld < mRest.size())
        {
            return;
        }
        compressBlocks(mState.data(), mRest.data(), 1);
        mHeld = 0;
    }
    compressBlocks(mState.data(), bytes, size / 64);
    mHeld = size % 64;
    std::copy_n(bytes + (size - mHeld), mHeld, mRest.data());
}

std::string Sha256::hex()
{
    auto const bits = mSize * 8;
    unsigned char const end = 0x80;
    unsigned char const zero = 0;
    add(&end, 1);
    while (mHeld != 56)
    {
        add(&zero, 1);
    }
    unsigned char length[8];
    for (int index = 0; index < 8; ++index)
    {
        length[index] = static_cast<unsigned char>(bits >> (56 - 8 * index));
    }
    add(length, 8);
    std::string text;
    for (auto const word : mState)
    {
        for (int shift = 28; shift >= 0; shift -= 4)
        {
            text += "0123456789abcdef"[word >> shift & 15];
        }
    }
    return text;
}

std::string sha256(std::string_view text)
{
    Sha256 digest;
    digest.add(text.data(), text.size());
    return digest.hex();
}

std::string sha256File(std::filesystem::path const& path)
{
    std::ifstream file(path, std::ios::binary);
    std::vector<char> chunk(kCHUNK);
    Sha256 digest;
    while (file.read(chunk.data(), static_cast<std::streamsize>(chunk.size())) || file.gcount())
    {
        digest.add(chunk.data(), static_cast<std::size_t>(file.gcount()));
    }
    if (!file.eof())
    {
        throw EnvironmentLack(path.string() + " cannot be read.");
    }
    return digest.hex();
}

} // namespace memvp
