// TensorRT in this process: its version, its one logger, plugin libraries, loaded engines.
#pragma once

#include "plugin_info.h"

#include <NvInferRuntime.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace memvp
{

// "tensorrt", or "tensorrt-rtx" where the library is that of TensorRT-RTX.
std::string tensorrtFlavor();

// The version of the library, with as many parts as `like` has: older Python packages name three.
std::string tensorrtVersion(std::string const& like);

// TensorRT's last error message in this thread since it was forgotten, empty where it had none.
std::string tensorrtSaid();
void forgetTensorrtSaid();

// The engine of a file that passed its preflight. hostCode permits one that carries a plugin library to run it. Throws
// EnvironmentLack with TensorRT's reason where this machine cannot load it.
std::shared_ptr<nvinfer1::ICudaEngine> loadEngine(std::filesystem::path const& path, bool hostCode);

// What the library at `path` says of itself; its code is run for that. Throws InputError where it cannot be loaded
// here, or is no library of `memvp-export plugin build`.
PluginInfo readPluginLibrary(std::filesystem::path const& path);

// Register the creators of a plugin library, once a process. Throws EnvironmentLack where `operators` are then missing.
void loadPlugin(PluginInfo const& library, std::vector<std::string> const& operators);

// An execution context without memory for activations, see `giveActivations`; null where there can be none.
std::unique_ptr<nvinfer1::IExecutionContext> bareContext(nvinfer1::ICudaEngine& engine);

// How much memory for activations the engine needs, and the memory itself for a context.
std::size_t activationBytes(nvinfer1::ICudaEngine const& engine);
void giveActivations(nvinfer1::IExecutionContext& context, void* memory, std::size_t size);

// A type as manifests name it; empty for one that no port has.
std::string typeName(nvinfer1::DataType type);

// Bytes of a number of a type of manifests. Throws InputError for a type that no port has.
std::size_t typeSize(std::string const& name);

} // namespace memvp
