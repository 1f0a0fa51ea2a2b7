// May an engine be loaded here? TensorRT has no check of its own: it answers null, an error in a log, or a crash.
// Decided on data alone, with the messages of Python's preflight: an engine's entry in the manifest, and what is here.
#pragma once

#include "memvp/json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace memvp
{

// A usable GPU: its compute capability as "90", the CUDA versions that its driver supports and that the runtime library
// has, and bytes of its memory, in all and free.
struct Gpu
{
    std::string name;
    std::string sm;
    std::string driver;
    std::string runtime;
    std::uint64_t memory = 0;
    std::uint64_t free = 0;
};

// The plugin library of this machine.
struct InstalledPlugin
{
    std::string buildId;
    std::string sha256;
    std::vector<std::string> operators;
    // Whether it has code for the GPU.
    bool runsHere = true;
};

// What this machine has.
struct Environment
{
    // A version; nothing where there is none that this process can load.
    std::optional<std::string> tensorrt;
    std::string flavor;
    std::optional<Gpu> gpu;
    std::string whyNoGpu;
    std::optional<InstalledPlugin> plugin;
    // Why one that is here cannot be used; empty where none is installed.
    std::string whyNoPlugin;
    // Bytes of the GPU's memory that are held for activations already: engines that run in turn share them.
    std::uint64_t activations = 0;
};

// An engine's file. sha256 and listed are its digest and the manifest's; equal where it was not read yet. knownCode:
// whether all host code in it is the installed plugin library's; nothing where it was not read yet.
struct EngineFile
{
    std::uint64_t size = 0;
    std::string sha256;
    std::string listed;
    std::optional<bool> knownCode;
};

// Why the engine cannot be loaded: what it was built with, what is here, and the fix; empty where it can. trusted
// allows host code that is not the installed plugin's.
std::vector<std::string> problems(
    Json const& entry, Environment const& here, EngineFile const& file, bool trusted = false);

// Throws EnvironmentLack with all problems of an engine, InputError where its bytes are not those listed.
void requireLoadable(Json const& entry, Environment const& here, EngineFile const& file, bool trusted = false);

// The message for an engine with these problems.
std::string refusal(Json const& entry, std::vector<std::string> const& found);

} // namespace memvp
