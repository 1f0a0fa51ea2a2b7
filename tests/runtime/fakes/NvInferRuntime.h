// The part of TensorRT's interface that the C++ runtime calls, with the names and signatures of TensorRT 10.1 and
// later; fake_tensorrt.cpp stands in for the library. That the real headers have the same is shown by compiling with
// them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "NvInferVersion.h"

namespace nvinfer1
{

using AsciiChar = char;

struct Dims64
{
    static constexpr std::int32_t MAX_DIMS{8};
    std::int32_t nbDims;
    std::int64_t d[MAX_DIMS];
};
using Dims = Dims64;

enum class DataType : std::int32_t
{
    kFLOAT = 0,
    kHALF = 1,
    kINT8 = 2,
    kINT32 = 3,
    kBOOL = 4,
    kUINT8 = 5,
    kFP8 = 6,
    kBF16 = 7,
    kINT64 = 8
};
enum class TensorIOMode : std::int32_t
{
    kNONE = 0,
    kINPUT = 1,
    kOUTPUT = 2
};
enum class ExecutionContextAllocationStrategy : std::int32_t
{
    kSTATIC = 0,
    kON_PROFILE_CHANGE = 1,
    kUSER_MANAGED = 2
};

class ILogger
{
public:
    enum class Severity : std::int32_t
    {
        kINTERNAL_ERROR = 0,
        kERROR = 1,
        kWARNING = 2,
        kINFO = 3,
        kVERBOSE = 4
    };
    virtual ~ILogger() = default;
    virtual void log(Severity severity, AsciiChar const* message) noexcept = 0;
};

class IExecutionContext
{
public:
    virtual ~IExecutionContext() noexcept = default;
    virtual bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t stream) noexcept = 0;
    virtual bool setInputShape(char const* name, Dims const& dims) noexcept = 0;
    virtual Dims getTensorShape(char const* name) const noexcept = 0;
    virtual bool setTensorAddress(char const* name, void* data) noexcept = 0;
    virtual void setDeviceMemoryV2(void* memory, std::int64_t size) noexcept = 0;
    virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

class ICudaEngine
{
public:
    virtual ~ICudaEngine() noexcept = default;
    virtual std::int32_t getNbIOTensors() const noexcept = 0;
    virtual char const* getIOTensorName(std::int32_t index) const noexcept = 0;
    virtual TensorIOMode getTensorIOMode(char const* name) const noexcept = 0;
    virtual DataType getTensorDataType(char const* name) const noexcept = 0;
    virtual std::int32_t getNbOptimizationProfiles() const noexcept = 0;
    virtual std::int64_t getDeviceMemorySizeV2() const noexcept = 0;
    virtual IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept = 0;
};

class IRuntime
{
public:
    virtual ~IRuntime() noexcept = default;
    virtual void setEngineHostCodeAllowed(bool allowed) noexcept = 0;
    virtual ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept = 0;
};

class IPluginCreatorInterface
{
public:
    virtual ~IPluginCreatorInterface() noexcept = default;
};

class IPluginRegistry
{
public:
    virtual ~IPluginRegistry() noexcept = default;
    virtual IPluginCreatorInterface* getCreator(
        AsciiChar const* name, AsciiChar const* version, AsciiChar const* space) noexcept = 0;
    virtual void* loadLibrary(AsciiChar const* path) noexcept = 0;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

} // namespace nvinfer1

nvinfer1::IPluginRegistry* getPluginRegistry() noexcept;
std::int32_t getInferLibMajorVersion() noexcept;
std::int32_t getInferLibMinorVersion() noexcept;
std::int32_t getInferLibPatchVersion() noexcept;
std::int32_t getInferLibBuildVersion() noexcept;
