// The parts of the CUDA runtime that running engines takes: one device, its memory, a stream.
#pragma once

#include "memvp/errors.h"
#include "preflight.h"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <optional>
#include <string>

namespace memvp
{

// The GPU has too little free memory for a call.
class OutOfMemory : public EnvironmentLack
{
public:
    using EnvironmentLack::EnvironmentLack;
};

// Throws EnvironmentLack, which names the call, where its code is not success.
void requireCuda(cudaError_t code, char const* call);

// Why no GPU can be used; empty where one can.
std::string whyNoGpu();

// What the preflight needs to know of a GPU; its free memory is that of now. Nothing where no GPU can be used.
std::optional<Gpu> gpuFacts(int device);

class Stream
{
public:
    Stream();
    ~Stream();
    Stream(Stream const&) = delete;
    Stream& operator=(Stream const&) = delete;

    cudaStream_t get() const noexcept
    {
        return mStream;
    }
    void synchronize() const;

    // Asynchronous copies: host memory must stay until `synchronize`.
    void upload(void* device, void const* host, std::size_t size) const;
    void download(void* host, void const* device, std::size_t size) const;
    void copy(void* to, void const* from, std::size_t size) const;
    // `rows` rows of `width` bytes, each row `toPitch` and `fromPitch` bytes after the one before.
    void copyRows(void* to, std::size_t toPitch, void const* from, std::size_t fromPitch, std::size_t width,
        std::size_t rows) const;
    void zero(void* device, std::size_t size) const;

private:
    cudaStream_t mStream = nullptr;
};

// Device memory that is kept from call to call, as large as the largest tensor it had to hold.
class DeviceBuffer
{
public:
    DeviceBuffer() = default;
    ~DeviceBuffer();
    DeviceBuffer(DeviceBuffer&& other) noexcept;
    DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;

    // The address of at least `size` bytes, never null; what was held is lost where it had to grow. With grows, half as
    // much again is set aside then, for what will grow further.
    void* reserve(std::size_t size, bool grows = false);
    void* get() const noexcept
    {
        return mData;
    }
    std::size_t capacity() const noexcept
    {
        return mCapacity;
    }

private:
    void release() noexcept;

    void* mData = nullptr;
    std::size_t mCapacity = 0;
};

} // namespace memvp
