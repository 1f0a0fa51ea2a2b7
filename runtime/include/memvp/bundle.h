// A bundle: the folder that memvp-export makes, checked when it is opened.
#pragma once

#include "memvp/json.h"

#include <filesystem>
#include <string>
#include <vector>

namespace memvp
{

// An opened bundle. Its manifest was checked, and every file's size; nothing changes it, so that threads may share it.
class Bundle
{
public:
    // Throws InputError that says whether the folder is no bundle, cut short, edited, newer than this library, or names
    // a path outside of itself. Files that memvp-export can make again (engines, calibration, reports) may be missing.
    // With verify, every digest is checked too.
    static Bundle open(std::filesystem::path const& root, bool verify = false);

    // Compare the SHA-256 of every file that is not missing with the manifest; throws InputError at the first
    // difference.
    void verify() const;

    // A file of the bundle. Throws InputError where the manifest does not list `name`, it would lie outside, or it is
    // missing.
    std::filesystem::path path(std::string const& name) const;

    // Files of the manifest that are not there now, all of which can be made again.
    std::vector<std::string> missing() const;

    // The folder as it is named in messages.
    std::string const& name() const noexcept
    {
        return mName;
    }

    // See docs/bundle.md of memvp-export.
    Json const& manifest() const noexcept
    {
        return mManifest;
    }

private:
    Bundle(std::filesystem::path root, std::string name, Json manifest);

    std::filesystem::path mRoot;
    std::string mName;
    Json mManifest;
};

} // namespace memvp
