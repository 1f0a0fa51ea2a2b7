#include "sha256_blocks.h"

#include <array>

#if defined(__x86_64__) && defined(__GNUC__)
#define MEMVP_X86_SHA 1
#include <cpuid.h>
#include <immintrin.h>
#else
#define MEMVP_X86_SHA 0
#endif

namespace memvp
{
namespace
{

// FIPS 180-4, 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64 primes.
alignas(16) constexpr std::array<std::uint32_t, 64> kROUNDS{0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b,
    0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
    0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc,
    0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1,
    0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814,
    0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

std::uint32_t rotated(std::uint32_t value, int by)
{
    return value >> by | value << (32 - by);
}

#if MEMVP_X86_SHA

bool hasShaInstructions()
{
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    bool const sse41 = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && (c & bit_SSSE3);
    return sse41 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}

__attribute__((target("sha,sse4.1,ssse3"))) void compressBlocksX86(
    std::uint32_t* state, unsigned char const* data, std::size_t count)
{
    auto const big = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    // The instructions take a state as {f, e, b, a} and {h, g, d, c}.
    auto const dcba = _mm_loadu_si128(reinterpret_cast<__m128i const*>(state));
    auto const hgfe = _mm_loadu_si128(reinterpret_cast<__m128i const*>(state + 4));
    auto const cdab = _mm_shuffle_epi32(dcba, 0xb1);
    auto const efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    auto abef = _mm_alignr_epi8(cdab, efgh, 8);
    auto cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; count; --count, data += 64)
    {
        auto const abefBefore = abef;
        auto const cdghBefore = cdgh;
        __m128i words[4];
        for (int part = 0; part < 4; ++part)
        {
            auto const* const place = reinterpret_cast<__m128i const*>(data + 16 * part);
            words[part] = _mm_shuffle_epi8(_mm_loadu_si128(place), big);
        }
        for (int part = 0; part < 16; ++part)
        {
            auto& current = words[part % 4];
            if (part >= 4)
            {
                auto const& before = words[(part + 3) % 4];
                auto const middle = _mm_alignr_epi8(before, words[(part + 2) % 4], 4);
                auto const sum = _mm_add_epi32(_mm_sha256msg1_epu32(current, words[(part + 1) % 4]), middle);
                current = _mm_sha256msg2_epu32(sum, before);
            }
            auto const* const constants = reinterpret_cast<__m128i const*>(kROUNDS.data() + 4 * part);
            auto const added = _mm_add_epi32(current, _mm_load_si128(constants));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, added);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(added, 0x0e));
        }
        abef = _mm_add_epi32(abef, abefBefore);
        cdgh = _mm_add_epi32(cdgh, cdghBefore);
    }
    auto const feba = _mm_shuffle_epi32(abef, 0x1b);
    auto const dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

#endif

} // namespace

void compressBlocksPlain(std::uint32_t* state, unsigned char const* data, std::size_t count)
{
    for (; count; --count, data += 64)
    {
        std::array<std::uint32_t, 64> words;
        for (std::size_t t = 0; t < 16; ++t)
        {
            auto const* const at = data + 4 * t;
            words[t] = std::uint32_t{at[0]} << 24 | std::uint32_t{at[1]} << 16 | std::uint32_t{at[2]} << 8 | at[3];
        }
        for (std::size_t t = 16; t < 64; ++t)
        {
            auto const early = words[t - 15];
            auto const late = words[t - 2];
            auto const s0 = rotated(early, 7) ^ rotated(early, 18) ^ early >> 3;
            auto const s1 = rotated(late, 17) ^ rotated(late, 19) ^ late >> 10;
            words[t] = words[t - 16] + s0 + words[t - 7] + s1;
        }
        auto a = state[0];
        auto b = state[1];
        auto c = state[2];
        auto d = state[3];
        auto e = state[4];
        auto f = state[5];
        auto g = state[6];
        auto h = state[7];
        for (std::size_t t = 0; t < 64; ++t)
        {
            auto const s1 = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25);
            auto const first = h + s1 + ((e & f) ^ (~e & g)) + kROUNDS[t] + words[t];
            auto const s0 = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22);
            auto const second = s0 + ((a & b) ^ (a & c) ^ (b & c));
            h = g;
            g = f;
            f = e;
            e = d + first;
            d = c;
            c = b;
            b = a;
            a = first + second;
        }
        std::uint32_t const added[8] = {a, b, c, d, e, f, g, h};
        for (int index = 0; index < 8; ++index)
        {
            state[index] += added[index];
        }
    }
}

void compressBlocks(std::uint32_t* state, unsigned char const* data, std::size_t count)
{
#if MEMVP_X86_SHA
    static bool const fast = hasShaInstructions();
    if (fast)
    {
        compressBlocksX86(state, data, count);
        return;
    }
#endif
    compressBlocksPlain(state, data, count);
}

} // namespace memvp
