// Which of a bundle's engines runs each component on this machine.
#pragma once

#include "memvp/bundle.h"
#include "preflight.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace memvp
{

// For each component that has engines in `precision`, the entry of the one that runs; all are of one target. That is
// the last one built that can be loaded here, of the target whose engines were built last among those where every
// component has one. `here` gives the environment of an entry. Throws InputError where the bundle has no such engine or
// has lost it, EnvironmentLack with the problems of each one where a component has some and none can be loaded.
std::vector<std::pair<std::string, Json>> chooseEngines(Bundle const& bundle, std::string const& precision,
    std::function<Environment(Json const&)> const& here, bool trusted);

} // namespace memvp
