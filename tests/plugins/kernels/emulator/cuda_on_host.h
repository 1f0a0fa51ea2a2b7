// Enough of CUDA to run the kernels on the host, one block after the other. A thread of a block is a fiber that runs
// until it waits for others; in which order they run, and when asynchronous copies are made, is drawn from a seed. A
// result that depends on the seed shows a barrier or a wait that is missing. What a GPU would leave undefined is made
// visible: shared memory starts as NaN and is guarded at its end, threads that part at a barrier are an error.
#pragma once

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct Index
{
    unsigned x;
};
inline Index threadIdx, blockIdx, blockDim;

struct alignas(16) uint4
{
    unsigned x, y, z, w;
};
struct alignas(16) float4
{
    float x, y, z, w;
};
struct alignas(8) float2
{
    float x, y;
};
inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

inline int min(int a, int b)
{
    return std::min(a, b);
}
inline int max(int a, int b)
{
    return std::max(a, b);
}

using cudaStream_t = void*;
enum cudaError_t
{
    cudaSuccess,
    cudaErrorInvalidValue,
    cudaErrorInvalidConfiguration,
    cudaErrorInvalidDevice,
    cudaErrorLaunchFailure,
};
enum cudaDeviceAttr
{
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    kDeviceAttributes,
};
enum cudaFuncAttribute
{
    cudaFuncAttributeMaxDynamicSharedMemorySize,
};

namespace emulator
{

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kGuardBytes = 4 << 10;
constexpr unsigned char kPoison = 0xff; // NaN in every type
constexpr int kWarp = 32;

struct Copy
{
    void* to;
    void const* from;
    int bytes;
};

struct Warp
{
    void* arguments[kWarp];
    void (*operation)(void* const*) = nullptr;
    int arrived = 0;
};

struct Fiber
{
    enum State
    {
        kReady,
        kAtBarrier,
        kInWarp,
        kDone,
    };
    ucontext_t start;
    jmp_buf resume;
    bool started = false;
    State state = kReady;
    unsigned index = 0;
    std::vector<Copy> open;                // copies of the group that is not yet committed
    std::vector<std::vector<Copy>> groups; // committed, not waited for
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
};

struct Machine
{
    int device = 0;
    std::map<int, std::vector<int>> attributes{{0, {9, 0, 4, 233472, 232448}}}; // of each device
    unsigned seed = 0;
    std::mt19937 random;
    std::string message;             // of the error:
    cudaError_t error = cudaSuccess; // of a kernel that ran; like CUDA's, it spoils every later call
    std::vector<std::pair<int, bool>> launches; // of each kernel: threads of a block, whether it has shared memory
    int refused = -1;                           // the launch that is refused, by its place among them
    std::map<std::pair<int, void const*>, size_t> allowedShared; // by device and kernel

    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned char> sharedStore;
    unsigned char* shared = nullptr;
    Fiber* current = nullptr;
    jmp_buf scheduler;
    void (*body)(void const*) = nullptr;
    void const* bodyArguments = nullptr;
};

inline Machine machine;

inline void fail(std::string const& message)
{
    if (machine.error == cudaSuccess)
    {
        machine.error = cudaErrorLaunchFailure;
        machine.message = message;
    }
}

// Back to the scheduler, until it resumes this fiber.
inline void yield(Fiber::State state)
{
    Fiber& fiber = *machine.current;
    fiber.state = state;
    if (_setjmp(fiber.resume) == 0)
    {
        _longjmp(machine.scheduler, 1);
    }
}

inline void runBody()
{
    machine.body(machine.bodyArguments);
    machine.current->state = Fiber::kDone;
    _longjmp(machine.scheduler, 1);
}

__attribute__((noinline)) inline void resume(Fiber& fiber)
{
    machine.current = &fiber;
    threadIdx.x = fiber.index;
    if (_setjmp(machine.scheduler) == 0)
    {
        if (fiber.started)
        {
            _longjmp(fiber.resume, 1);
        }
        fiber.started = true;
        setcontext(&fiber.start);
    }
}

inline bool chance()
{
    return machine.seed == 0 ? false : machine.seed == 1 ? true : (machine.random() & 1) != 0;
}

inline void make(Copy const& copy)
{
    std::memset(copy.to, 0, 16);
    std::memcpy(copy.to, copy.from, copy.bytes);
}

// Seed 0: threads in rising order, copies as late as allowed; 1: falling order, copies at once; else both by chance.
inline void shuffle(std::vector<unsigned>& order)
{
    for (unsigned i = 0; i < order.size(); ++i)
    {
        order[i] = machine.seed == 1 ? order.size() - 1 - i : i;
    }
    if (machine.seed > 1)
    {
        std::shuffle(order.begin(), order.end(), machine.random);
    }
}

inline bool release(Fiber::State state, unsigned threads)
{
    for (unsigned i = 0; i < threads; ++i)
    {
        if (machine.fibers[i]->state != state)
        {
            return false;
        }
    }
    for (unsigned i = 0; i < threads; ++i)
    {
        machine.fibers[i]->state = Fiber::kReady;
    }
    return true;
}

inline void runBlock(unsigned threads)
{
    machine.warps.assign(threads / kWarp, {});
    while (machine.fibers.size() < threads)
    {
        machine.fibers.push_back(std::make_unique<Fiber>());
    }
    for (unsigned i = 0; i < threads; ++i)
    {
        Fiber& fiber = *machine.fibers[i];
        fiber.started = false;
        fiber.state = Fiber::kReady;
        fiber.index = i;
        fiber.open.clear();
        fiber.groups.clear();
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = kStackBytes;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, runBody, 0);
    }
    std::vector<unsigned> order(threads);
    while (machine.error == cudaSuccess)
    {
        shuffle(order);
        bool ran = false;
        unsigned done = 0;
        for (unsigned i : order)
        {
            Fiber& fiber = *machine.fibers[i];
            if (fiber.state == Fiber::kReady && machine.error == cudaSuccess)
            {
                resume(fiber);
                ran = true;
            }
            done += fiber.state == Fiber::kDone ? 1 : 0;
        }
        if (done == threads)
        {
            return;
        }
        if (!ran && !release(Fiber::kAtBarrier, threads))
        {
            fail("threads of a block wait for others that do not come");
        }
    }
}

template <typename Arguments>
struct Launch
{
    void (*kernel)(Arguments);
    Arguments const& arguments;

    static void body(void const* self)
    {
        auto const& launch = *static_cast<Launch const*>(self);
        launch.kernel(launch.arguments);
    }
};

// A collective of the warp: operation gets the arguments of its 32 lanes when all have come.
inline void collective(void (*operation)(void* const*), void* arguments)
{
    unsigned const thread = threadIdx.x;
    Warp& warp = machine.warps[thread / kWarp];
    if (warp.arrived > 0 && warp.operation != operation)
    {
        fail("lanes of a warp are at different collectives");
        yield(Fiber::kInWarp);
    }
    warp.operation = operation;
    warp.arguments[thread % kWarp] = arguments;
    if (++warp.arrived < kWarp)
    {
        yield(Fiber::kInWarp);
        return;
    }
    operation(warp.arguments);
    warp.arrived = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane)
    {
        machine.fibers[thread / kWarp * kWarp + lane]->state = Fiber::kReady;
    }
}

} // namespace emulator

namespace memvp
{

template <typename Arguments>
cudaError_t launch(void (*kernel)(Arguments), unsigned blocks, unsigned threads, size_t sharedBytes, cudaStream_t,
    Arguments const& arguments)
{
    emulator::Machine& machine = emulator::machine;
    size_t const allowed
        = std::max<size_t>(48 << 10, machine.allowedShared[{machine.device, reinterpret_cast<void const*>(kernel)}]);
    bool const impossible
        = blocks == 0 || threads == 0 || threads > 1024 || threads % emulator::kWarp != 0 || sharedBytes > allowed;
    if (impossible || static_cast<int>(machine.launches.size()) == machine.refused)
    {
        machine.refused = -1;
        return cudaErrorInvalidConfiguration;
    }
    machine.launches.emplace_back(static_cast<int>(threads), sharedBytes > 0);
    machine.random.seed(machine.seed);
    machine.sharedStore.resize(sharedBytes + emulator::kGuardBytes + 16);
    machine.shared = reinterpret_cast<unsigned char*>(
        (reinterpret_cast<uintptr_t>(machine.sharedStore.data()) + 15) / 16 * 16);
    emulator::Launch<Arguments> const call{kernel, arguments};
    machine.body = emulator::Launch<Arguments>::body;
    machine.bodyArguments = &call;
    blockDim.x = threads;
    std::vector<unsigned> order(blocks);
    emulator::shuffle(order);
    for (unsigned block : order)
    {
        if (machine.error == cudaSuccess)
        {
            std::memset(machine.shared, emulator::kPoison, sharedBytes + emulator::kGuardBytes);
            blockIdx.x = block;
            emulator::runBlock(threads);
            for (size_t i = 0; i < emulator::kGuardBytes; ++i)
            {
                if (machine.shared[sharedBytes + i] != emulator::kPoison)
                {
                    emulator::fail("a block writes beyond its shared memory");
                }
            }
        }
    }
    return machine.error;
}

} // namespace memvp

inline cudaError_t cudaGetDevice(int* device)
{
    *device = emulator::machine.device;
    return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device)
{
    auto const found = emulator::machine.attributes.find(device);
    if (found == emulator::machine.attributes.end())
    {
        return cudaErrorInvalidDevice;
    }
    *value = found->second[attribute];
    return cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(void const* kernel, cudaFuncAttribute, int bytes)
{
    emulator::Machine& machine = emulator::machine;
    bool const possible = bytes <= machine.attributes[machine.device][cudaDevAttrMaxSharedMemoryPerBlockOptin];
    if (possible)
    {
        machine.allowedShared[{machine.device, kernel}] = bytes;
    }
    return possible ? cudaSuccess : cudaErrorInvalidValue;
}

inline char const* cudaGetErrorString(cudaError_t error)
{
    switch (error)
    {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "an argument that CUDA would refuse";
    case cudaErrorInvalidConfiguration: return "a launch that CUDA would refuse";
    case cudaErrorInvalidDevice: return "a device that is not there";
    case cudaErrorLaunchFailure: return emulator::machine.message.c_str();
    }
    return "an unknown error";
}
