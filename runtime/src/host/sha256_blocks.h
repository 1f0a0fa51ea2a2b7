// The compression function of SHA-256, with the processor's own instructions where it has them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace memvp
{

// Take `count` blocks of 64 bytes into a state.
void compressBlocks(std::uint32_t* state, unsigned char const* data, std::size_t count);

// The same in plain C++.
void compressBlocksPlain(std::uint32_t* state, unsigned char const* data, std::size_t count);

} // namespace memvp
