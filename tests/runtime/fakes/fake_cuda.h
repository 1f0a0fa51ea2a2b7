// What the fake TensorRT and the tests need of the fake CUDA.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <string>

namespace fake
{

// Put work on a stream; it is done when the stream is waited for.
void enqueue(cudaStream_t stream, std::function<void()> work);

// The memory of a buffer on the device. Ends the process with a word where so many bytes from there are in no buffer,
// as a crash of the real one would.
char* inside(void const* device, std::size_t size, std::string const& what);

// What is alive: buffers and their bytes, streams; and how often memory was asked for.
struct Held
{
    std::size_t buffers;
    std::size_t bytes;
    std::size_t streams;
    std::size_t mallocs;
};
Held held();

// Bytes that the device has.
void setCapacity(std::size_t bytes);

} // namespace fake
