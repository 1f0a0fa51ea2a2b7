// What the lanes of a model share.
#pragma once

#include "engine.h"
#include "memvp/runtime.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace memvp
{

struct Model::State
{
    Bundle bundle;
    int device;
    // Of all models that this process has opened, this one.
    std::uint64_t number;
    std::map<std::string, std::shared_ptr<Engine const>> engines;
    std::string described;

    // Throws InputError where no engine of that name was loaded.
    std::shared_ptr<Engine const> engine(std::string const& component) const;
};

// Load the engines of a bundle in a precision, after their preflight.
std::shared_ptr<Model::State const> loadModel(std::filesystem::path const& bundle, ModelOptions const& options);

} // namespace memvp
