// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace memvp
{

// A digest in the making.
class Sha256
{
public:
    void add(void const* data, std::size_t size);
    // In hex, of all that was added; nothing can be added after it.
    std::string hex();

private:
    std::array<std::uint32_t, 8> mState{
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<unsigned char, 64> mRest{};
    std::size_t mHeld = 0;
    std::uint64_t mSize = 0;
};

std::string sha256(std::string_view text);

// Of a file's bytes. Throws EnvironmentLack where it cannot be read.
std::string sha256File(std::filesystem::path const& path);

} // namespace memvp
