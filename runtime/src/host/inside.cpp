#include "inside.h"

#include "memvp/errors.h"
#include "text.h"

#include <algorithm>
#include <vector>

namespace memvp
{
namespace
{

namespace fs = std::filesystem;

std::vector<std::string> partsOf(std::string const& text)
{
    std::vector<std::string> parts;
    for (std::size_t start = 0; start <= text.size();)
    {
        auto const end = std::min(text.find('/', start), text.size());
        auto const part = text.substr(start, end - start);
        if (!part.empty() && part != ".")
        {
            parts.push_back(part);
        }
        start = end + 1;
    }
    return parts;
}

} // namespace

std::string shownPath(fs::path const& path)
{
    auto const text = path.generic_string();
    auto const shown = (!text.empty() && text[0] == '/' ? "/" : "") + joined(partsOf(text), "/");
    return shown.empty() ? "." : shown;
}

fs::path inside(fs::path const& root, std::string const& bundle, std::string const& name)
{
    auto const parts = partsOf(name);
    bool const climbs = std::find(parts.begin(), parts.end(), "..") != parts.end();
    if ((!name.empty() && name[0] == '/') || climbs || name.find('\0') != std::string::npos)
    {
        throw InputError(bundle + " is refused: its manifest names " + reprOf(name) + ", a path outside the bundle.");
    }
    auto const path = root / joined(parts, "/");
    std::error_code failed;
    auto const whole = fs::weakly_canonical(root, failed);
    auto const real = failed ? fs::path() : fs::weakly_canonical(path, failed);
    auto const [left, right] = std::mismatch(whole.begin(), whole.end(), real.begin(), real.end());
    if (failed || left != whole.end())
    {
        throw InputError(bundle + " is refused: " + name + " is, or lies behind, a link that leaves the bundle, to "
            + (failed ? "nowhere" : real.string()) + ". Put the file itself in its place.");
    }
    return path;
}

} // namespace memvp
