#include "fake_cuda.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

struct FakeStream
{
    std::vector<std::function<void()>> work;
};

namespace
{

// Fresh memory, and what ends a buffer: far from any number of a test.
constexpr int kPOISON = 0xA5;
constexpr std::size_t kGUARD = 4096;

std::recursive_mutex gMutex;
std::map<char*, std::size_t> gBuffers;
std::set<FakeStream*> gStreams;
std::size_t gMallocs = 0;
std::size_t gCapacity = std::size_t{1} << 40;

using Lock = std::lock_guard<std::recursive_mutex>;

int variable(char const* name, int otherwise)
{
    auto const* const text = std::getenv(name);
    return text ? std::atoi(text) : otherwise;
}

[[noreturn]] void stop(std::string const& why)
{
    std::fprintf(stderr, "the fake GPU: %s\n", why.c_str());
    std::abort();
}

std::size_t bytesHeld()
{
    std::size_t bytes = 0;
    for (auto const& [start, size] : gBuffers)
    {
        bytes += size;
    }
    return bytes;
}

void finish(FakeStream& stream)
{
    auto const work = std::move(stream.work);
    stream.work.clear();
    for (auto const& each : work)
    {
        each();
    }
}

void requireStream(cudaStream_t stream)
{
    if (!gStreams.count(stream))
    {
        stop("work for a stream that there is not");
    }
}

} // namespace

namespace fake
{

void enqueue(cudaStream_t stream, std::function<void()> work)
{
    Lock const lock(gMutex);
    requireStream(stream);
    stream->work.push_back(std::move(work));
}

char* inside(void const* device, std::size_t size, std::string const& what)
{
    Lock const lock(gMutex);
    auto* const address = static_cast<char*>(const_cast<void*>(device));
    auto after = gBuffers.upper_bound(address);
    if (after == gBuffers.begin())
    {
        stop(what + " is in no buffer");
    }
    auto const& [start, held] = *--after;
    if (address + size > start + held)
    {
        stop(what + " reaches beyond its buffer: " + std::to_string(size) + " bytes of " + std::to_string(held));
    }
    return address;
}

Held held()
{
    Lock const lock(gMutex);
    return {gBuffers.size(), bytesHeld(), gStreams.size(), gMallocs};
}

void setCapacity(std::size_t bytes)
{
    Lock const lock(gMutex);
    gCapacity = bytes;
}

} // namespace fake

char const* cudaGetErrorString(cudaError_t error)
{
    switch (error)
    {
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    default: return "something else";
    }
}

cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count)
{
    *count = variable("FAKE_GPUS", 1);
    return variable("FAKE_DRIVER", 13000) == 0 ? cudaErrorInsufficientDriver
        : *count                               ? cudaSuccess
                                               : cudaErrorNoDevice;
}

cudaError_t cudaDriverGetVersion(int* version)
{
    *version = variable("FAKE_DRIVER", 13000);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device >= 0 && device < variable("FAKE_GPUS", 1) ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int)
{
    std::strcpy(properties->name, "NVIDIA H200");
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int)
{
    auto const sm = variable("FAKE_SM", 90);
    *value = which == cudaDevAttrComputeCapabilityMajor ? sm / 10 : sm % 10;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total)
{
    Lock const lock(gMutex);
    *total = gCapacity;
    *free = gCapacity - bytesHeld();
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, std::size_t size)
{
    Lock const lock(gMutex);
    if (bytesHeld() + size > gCapacity)
    {
        return cudaErrorMemoryAllocation;
    }
    auto* const made = static_cast<char*>(std::malloc(size + 2 * kGUARD));
    std::memset(made, kPOISON, size + 2 * kGUARD);
    gBuffers[made + kGUARD] = size;
    ++gMallocs;
    *pointer = made + kGUARD;
    return cudaSuccess;
}

cudaError_t cudaFree(void* pointer)
{
    Lock const lock(gMutex);
    // As the real one, it waits for all that may still use the buffer.
    for (auto* const stream : gStreams)
    {
        finish(*stream);
    }
    auto* const start = static_cast<char*>(pointer);
    if (!gBuffers.erase(start))
    {
        stop("a buffer is given back that there is not");
    }
    std::free(start - kGUARD);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream)
{
    Lock const lock(gMutex);
    *stream = new FakeStream;
    gStreams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    Lock const lock(gMutex);
    requireStream(stream);
    finish(*stream);
    gStreams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    Lock const lock(gMutex);
    requireStream(stream);
    finish(*stream);
    return variable("FAKE_FAILURE", 0) ? cudaErrorLaunchFailure : cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t size, cudaMemcpyKind kind, cudaStream_t stream)
{
    switch (kind)
    {
    case cudaMemcpyHostToDevice:
    {
        // Pageable memory is read before the call returns.
        auto const* const bytes = static_cast<char const*>(from);
        auto const staged = std::make_shared<std::vector<char>>(bytes, bytes + size);
        fake::enqueue(
            stream, [=] { std::copy(staged->begin(), staged->end(), fake::inside(to, size, "an uploaded tensor")); });
        return cudaSuccess;
    }
    case cudaMemcpyDeviceToHost:
        fake::enqueue(stream, [=] { std::memcpy(to, fake::inside(from, size, "a downloaded tensor"), size); });
        return cudaSuccess;
    case cudaMemcpyDeviceToDevice: return cudaMemcpy2DAsync(to, size, from, size, size, 1, kind, stream);
    }
    return cudaErrorInvalidValue;
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t toPitch, void const* from, std::size_t fromPitch, std::size_t width,
    std::size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    if (kind != cudaMemcpyDeviceToDevice || width > toPitch || width > fromPitch)
    {
        return cudaErrorInvalidValue;
    }
    fake::enqueue(stream, [=] {
        auto* const target = fake::inside(to, toPitch * (height - 1) + width, "the target of a copy");
        auto const* const source = fake::inside(from, fromPitch * (height - 1) + width, "the source of a copy");
        for (std::size_t row = 0; row < height; ++row)
        {
            std::memcpy(target + row * toPitch, source + row * fromPitch, width);
        }
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t size, cudaStream_t stream)
{
    fake::enqueue(stream, [=] { std::memset(fake::inside(to, size, "a buffer to fill"), value, size); });
    return cudaSuccess;
}
