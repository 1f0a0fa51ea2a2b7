#include "memvp/bundle.h"

#include "file_view.h"
#include "inside.h"
#include "manifest.h"
#include "memvp/errors.h"
#include "sha256.h"
#include "text.h"

namespace memvp
{
namespace
{

namespace fs = std::filesystem;

// The command that makes a file of a bundle from the others; empty for what only an export makes.
std::string makerOf(std::string const& name)
{
    auto const folder = name.substr(0, name.find('/'));
    return folder == "engines" ? "memvp-export trt"
        : folder == "calibration" || folder == "reports" ? "memvp-export calibrate"
                                                         : "";
}

} // namespace

Bundle::Bundle(fs::path root, std::string name, Json manifest)
    : mRoot(std::move(root))
    , mName(std::move(name))
    , mManifest(std::move(manifest))
{
}

Bundle Bundle::open(fs::path const& root, bool verify)
{
    auto const shown = shownPath(root);
    Bundle bundle(shown, shown, readManifest(root, shown));
    for (auto const& [name, entry] : bundle.mManifest.at("files").members())
    {
        auto const path = inside(root, shown, name);
        auto const maker = makerOf(name);
        auto const found = sizeOf(path);
        if (!found)
        {
            if (!maker.empty())
            {
                continue;
            }
            throw InputError(shown + " is cut short: " + name + " is missing. Export or copy the bundle again.");
        }
        auto const size = static_cast<std::int64_t>(*found);
        auto const& listed = entry.at("size");
        if (size != listed.integer())
        {
            auto const fix = maker.empty() ? "" : " Delete that file, and make it again with `" + maker + "`.";
            throw InputError(shown + " is " + (size < listed.integer() ? "cut short" : "edited") + ": " + name + " has "
                + withCommas(*found) + " bytes, its manifest says "
                + withCommas(listed.repr()) + "." + fix);
        }
    }
    if (verify)
    {
        bundle.verify();
    }
    return bundle;
}

void Bundle::verify() const
{
    for (auto const& [name, entry] : mManifest.at("files").members())
    {
        auto const path = inside(mRoot, mName, name);
        bool const there = makerOf(name).empty() || sizeOf(path);
        if (there && sha256File(path) != entry.at("sha256").string())
        {
            throw InputError(mName + " is edited: the bytes of " + name + " are not those of its manifest.");
        }
    }
}

fs::path Bundle::path(std::string const& name) const
{
    if (!mManifest.at("files").find(name))
    {
        throw InputError(
            mName + " is edited: manifest.json uses " + reprOf(name) + ", which is not in its list of files.");
    }
    auto const path = inside(mRoot, mName, name);
    auto const maker = makerOf(name);
    if (!maker.empty() && !sizeOf(path))
    {
        throw InputError(mName + " is cut short: " + name + " is missing. Make it again with `" + maker + "`.");
    }
    return path;
}

std::vector<std::string> Bundle::missing() const
{
    std::vector<std::string> found;
    for (auto const& [name, entry] : mManifest.at("files").members())
    {
        if (!makerOf(name).empty() && !sizeOf(inside(mRoot, mName, name)))
        {
            found.push_back(name);
        }
    }
    return found;
}

} // namespace memvp
