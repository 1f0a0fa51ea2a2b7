// float16 and bfloat16 in software, rounding to nearest even: tests need no CUDA headers for them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace memvp
{

struct Half
{
    uint16_t bits;
};

struct BFloat16
{
    uint16_t bits;
};

inline float fromBits(uint32_t bits)
{
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

inline uint32_t bitsOf(float value)
{
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline float toFloat(float value)
{
    return value;
}

inline float toFloat(BFloat16 value)
{
    return fromBits(uint32_t{value.bits} << 16);
}

inline float toFloat(Half value)
{
    uint32_t const sign = (value.bits & 0x8000U) << 16;
    uint32_t const exponent = value.bits >> 10 & 31;
    uint32_t const mantissa = value.bits & 1023;
    if (exponent == 0)
    {
        float const small = static_cast<float>(mantissa) * 0x1p-24F;
        return sign != 0 ? -small : small;
    }
    return fromBits(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13);
}

template <typename T>
T fromFloat(float value);

template <>
inline float fromFloat<float>(float value)
{
    return value;
}

template <>
inline BFloat16 fromFloat<BFloat16>(float value)
{
    uint32_t const bits = bitsOf(value);
    if (std::isnan(value))
    {
        return {0x7fff};
    }
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <>
inline Half fromFloat<Half>(float value)
{
    uint16_t const sign = bitsOf(value) >> 16 & 0x8000;
    float const size = std::fabs(value);
    if (std::isnan(value))
    {
        return {0x7fff};
    }
    if (size >= 65520.F)
    {
        return {static_cast<uint16_t>(sign | 0x7c00)};
    }
    if (size < 0x1p-14F)
    {
        return {static_cast<uint16_t>(sign | static_cast<int>(std::nearbyint(size * 0x1p24F)))};
    }
    uint32_t const bits = bitsOf(size) - (112U << 23);
    return {static_cast<uint16_t>(sign | (bits + 0xfff + (bits >> 13 & 1)) >> 13)};
}

} // namespace memvp
