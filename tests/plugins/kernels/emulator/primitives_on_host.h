// The names of plugins/kernels/primitives.cuh, carried out on the host.
#pragma once

#include "cuda_on_host.h"
#include "half_types.h"

namespace memvp
{

inline unsigned char* sharedMemory()
{
    return emulator::machine.shared;
}

inline void barrier()
{
    emulator::yield(emulator::Fiber::kAtBarrier);
}

struct Shuffle
{
    float value;
    int mask;
    float result;
};

inline float shuffleXor(float value, int mask)
{
    Shuffle mine{value, mask, 0.F};
    emulator::collective(
        [](void* const* lanes)
        {
            for (int lane = 0; lane < emulator::kWarp; ++lane)
            {
                auto* const to = static_cast<Shuffle*>(lanes[lane]);
                to->result = static_cast<Shuffle*>(lanes[lane ^ to->mask])->value;
            }
        },
        &mine);
    return mine.result;
}

inline void copyAsync16(void* shared, void const* global, int bytes)
{
    emulator::Copy const copy{shared, global, bytes};
    bool const aligned = (reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16 == 0;
    if (!aligned || bytes < 0 || bytes > 16)
    {
        emulator::fail("an asynchronous copy that is not of 16 aligned bytes");
        return;
    }
    emulator::chance() ? emulator::make(copy) : emulator::machine.current->open.push_back(copy);
}

inline void copyCommit()
{
    emulator::Fiber& fiber = *emulator::machine.current;
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}

template <int kPending>
void copyWait()
{
    auto& groups = emulator::machine.current->groups;
    while (groups.size() > kPending)
    {
        for (emulator::Copy const& copy : groups.front())
        {
            emulator::make(copy);
        }
        groups.erase(groups.begin());
    }
}

struct Matrices
{
    uint32_t* to;
    void const* row;
};

// Lane l gets two values of each 8x8 matrix: (l / 4, 2 (l % 4)) and the next column, or of the transposed matrix.
template <bool kTransposed>
void distributeMatrices(void* const* lanes)
{
    auto const at = [&](int matrix, int row, int column)
    {
        void const* const address = static_cast<Matrices*>(lanes[8 * matrix + row])->row;
        return uint32_t{static_cast<uint16_t const*>(address)[column]};
    };
    for (int lane = 0; lane < emulator::kWarp; ++lane)
    {
        int const i = lane / 4;
        int const j = lane % 4 * 2;
        for (int matrix = 0; matrix < 4; ++matrix)
        {
            uint32_t const first = kTransposed ? at(matrix, j, i) : at(matrix, i, j);
            uint32_t const second = kTransposed ? at(matrix, j + 1, i) : at(matrix, i, j + 1);
            static_cast<Matrices*>(lanes[lane])->to[matrix] = first | second << 16;
        }
    }
}

inline void loadMatrices(uint32_t (&r)[4], void const* row)
{
    Matrices mine{r, row};
    emulator::collective(distributeMatrices<false>, &mine);
}

inline void loadMatricesTransposed(uint32_t (&r)[4], void const* row)
{
    Matrices mine{r, row};
    emulator::collective(distributeMatrices<true>, &mine);
}

template <typename T>
float halfOf(uint32_t pair, int which)
{
    return toFloat(T{static_cast<uint16_t>(which == 0 ? pair : pair >> 16)});
}

struct Fragments
{
    float* c;
    uint32_t const* a;
    uint32_t b[2];
};

// The fragment layout of mma.m16n8k16 as the PTX manual draws it.
template <typename T>
void multiplyFragmentsOnHost(void* const* lanes)
{
    float a[16][16];
    float b[16][8];
    for (int lane = 0; lane < emulator::kWarp; ++lane)
    {
        auto const& from = *static_cast<Fragments*>(lanes[lane]);
        int const group = lane / 4;
        int const pair = lane % 4 * 2;
        for (int e = 0; e < 2; ++e)
        {
            for (int i = 0; i < 4; ++i)
            {
                a[group + i % 2 * 8][pair + e + i / 2 * 8] = halfOf<T>(from.a[i], e);
            }
            for (int i = 0; i < 2; ++i)
            {
                b[pair + e + 8 * i][group] = halfOf<T>(from.b[i], e);
            }
        }
    }
    for (int lane = 0; lane < emulator::kWarp; ++lane)
    {
        for (int i = 0; i < 4; ++i)
        {
            float& sum = static_cast<Fragments*>(lanes[lane])->c[i];
            for (int k = 0; k < 16; ++k)
            {
                sum += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
            }
        }
    }
}

template <typename T>
void multiplyAdd(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
    Fragments mine{c, a, {b0, b1}};
    emulator::collective(multiplyFragmentsOnHost<T>, &mine);
}

template <typename T>
uint32_t addPairs(uint32_t x, uint32_t y)
{
    uint32_t const low = fromFloat<T>(halfOf<T>(x, 0) + halfOf<T>(y, 0)).bits;
    uint32_t const high = fromFloat<T>(halfOf<T>(x, 1) + halfOf<T>(y, 1)).bits;
    return low | high << 16;
}

} // namespace memvp

// What the tests set and ask.
extern "C"
{
    inline __attribute__((used)) void emulatorStart(unsigned seed)
    {
        emulator::machine.seed = seed;
        emulator::machine.error = cudaSuccess;
        emulator::machine.message.clear();
        emulator::machine.launches.clear();
        emulator::machine.refused = -1;
    }

    inline __attribute__((used)) void emulatorRefuse(int launch)
    {
        emulator::machine.refused = launch;
    }

    inline __attribute__((used)) int emulatorLaunches(int* threads, int capacity)
    {
        int count = 0;
        for (auto const& [each, shared] : emulator::machine.launches)
        {
            if (count < capacity)
            {
                threads[count++] = shared ? each : -each;
            }
        }
        return count;
    }

    inline __attribute__((used)) void emulatorDevice(
        int device, int capability, int multiprocessors, int sharedPerMultiprocessor, int sharedPerBlock)
    {
        emulator::machine.device = device;
        emulator::machine.attributes[device]
            = {capability / 10, capability % 10, multiprocessors, sharedPerMultiprocessor, sharedPerBlock};
    }

    // The current device is one that cannot be asked for anything.
    inline __attribute__((used)) void emulatorLoseDevice(int device)
    {
        emulator::machine.device = device;
        emulator::machine.attributes.erase(device);
    }
}
