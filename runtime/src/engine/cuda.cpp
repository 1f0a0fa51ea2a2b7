#include "cuda.h"

#include "text.h"

#include <algorithm>
#include <utility>

namespace memvp
{
namespace
{

// TensorRT aligns to this; an empty tensor has an address too.
constexpr std::size_t kSMALLEST = 256;

std::string versionText(int number)
{
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

int attribute(cudaDeviceAttr which, int device)
{
    int value = 0;
    requireCuda(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
}

} // namespace

void requireCuda(cudaError_t code, char const* call)
{
    if (code == cudaErrorMemoryAllocation)
    {
        throw OutOfMemory(std::string("the GPU has too little free memory: ") + call + " failed.");
    }
    if (code != cudaSuccess)
    {
        throw EnvironmentLack(std::string(call) + " failed: " + cudaGetErrorString(code));
    }
}

std::string whyNoGpu()
{
    int count = 0;
    auto const code = cudaGetDeviceCount(&count);
    if (code == cudaSuccess && count > 0)
    {
        return "";
    }
    // An error stays with the thread until it is asked for.
    (void)cudaGetLastError();
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    {
        return "no NVIDIA driver is installed: a GPU is needed.";
    }
    return "the NVIDIA driver (CUDA " + versionText(driver) + ") cannot be used: "
        + (code == cudaSuccess ? "it lists no GPU" : cudaGetErrorString(code)) + ". Update it.";
}

std::optional<Gpu> gpuFacts(int device)
{
    if (!whyNoGpu().empty())
    {
        return std::nullopt;
    }
    requireCuda(cudaSetDevice(device), "cudaSetDevice");
    cudaDeviceProp properties{};
    requireCuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    int driver = 0;
    int runtime = 0;
    requireCuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    requireCuda(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
    std::size_t free = 0;
    std::size_t total = 0;
    requireCuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    auto const sm = std::to_string(attribute(cudaDevAttrComputeCapabilityMajor, device))
        + std::to_string(attribute(cudaDevAttrComputeCapabilityMinor, device));
    return Gpu{properties.name, sm, versionText(driver), versionText(runtime), total, free};
}

Stream::Stream()
{
    requireCuda(cudaStreamCreate(&mStream), "cudaStreamCreate");
}

Stream::~Stream()
{
    cudaStreamDestroy(mStream);
}

void Stream::synchronize() const
{
    requireCuda(cudaStreamSynchronize(mStream), "cudaStreamSynchronize");
}

void Stream::upload(void* device, void const* host, std::size_t size) const
{
    if (size)
    {
        requireCuda(cudaMemcpyAsync(device, host, size, cudaMemcpyHostToDevice, mStream), "cudaMemcpyAsync");
    }
}

void Stream::download(void* host, void const* device, std::size_t size) const
{
    if (size)
    {
        requireCuda(cudaMemcpyAsync(host, device, size, cudaMemcpyDeviceToHost, mStream), "cudaMemcpyAsync");
    }
}

void Stream::copy(void* to, void const* from, std::size_t size) const
{
    if (size)
    {
        requireCuda(cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, mStream), "cudaMemcpyAsync");
    }
}

void Stream::copyRows(void* to, std::size_t toPitch, void const* from, std::size_t fromPitch, std::size_t width,
    std::size_t rows) const
{
    if (width && rows)
    {
        requireCuda(cudaMemcpy2DAsync(to, toPitch, from, fromPitch, width, rows, cudaMemcpyDeviceToDevice, mStream),
            "cudaMemcpy2DAsync");
    }
}

void Stream::zero(void* device, std::size_t size) const
{
    requireCuda(cudaMemsetAsync(device, 0, size, mStream), "cudaMemsetAsync");
}

DeviceBuffer::~DeviceBuffer()
{
    release();
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : mData(std::exchange(other.mData, nullptr))
    , mCapacity(std::exchange(other.mCapacity, 0))
{
}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept
{
    std::swap(mData, other.mData);
    std::swap(mCapacity, other.mCapacity);
    return *this;
}

void* DeviceBuffer::reserve(std::size_t size, bool grows)
{
    if (mData && size <= mCapacity)
    {
        return mData;
    }
    auto const wanted = std::max({size, grows ? mCapacity * 3 / 2 : 0, kSMALLEST});
    // Before the new one is made: both need not fit.
    release();
    auto const code = cudaMalloc(&mData, wanted);
    if (code != cudaSuccess)
    {
        mData = nullptr;
        (void)cudaGetLastError();
        requireCuda(code, ("cudaMalloc of " + withCommas(wanted) + " bytes").c_str());
    }
    mCapacity = wanted;
    return mData;
}

void DeviceBuffer::release() noexcept
{
    // After some failures the device refuses every call, and what is then to be told is the first.
    if (mData)
    {
        cudaFree(mData);
    }
    mData = nullptr;
    mCapacity = 0;
}

} // namespace memvp
