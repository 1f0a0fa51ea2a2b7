#include "choice.h"

#include "memvp/errors.h"
#include "text.h"

#include <algorithm>
#include <set>

namespace memvp
{
namespace
{

// Whether the graph that an engine was built from is still the bundle's.
bool isOfItsGraph(Json const& entry, Json const& manifest)
{
    auto const* const component = manifest.at("components").find(entry.at("component").string());
    auto const* const graph = component ? component->at("graphs").find(entry.at("precision").string()) : nullptr;
    auto const* const source = entry.find("source");
    if (!graph || !source || !source->is(Json::Type::kOBJECT))
    {
        return false;
    }
    auto const& file = graph->at("file").string();
    std::size_t count = 0;
    for (auto const& name : {file, file + ".data"})
    {
        auto const* const listed = manifest.at("files").find(name);
        auto const* const built = source->find(name);
        if (listed && !(built && built->isString() && built->string() == listed->at("sha256").string()))
        {
            return false;
        }
        count += listed ? 1 : 0;
    }
    return source->members().size() == count;
}

std::vector<Json> ofPrecision(Bundle const& bundle, std::string const& precision)
{
    std::vector<Json> found;
    std::set<std::string> others;
    for (auto const& entry : bundle.manifest().at("engines").array())
    {
        others.insert(entry.at("precision").string());
        if (entry.at("precision").string() == precision)
        {
            found.push_back(entry);
        }
    }
    if (found.empty())
    {
        auto const known = others.empty()
            ? std::string("it has no engines")
            : "it has engines in " + joined({others.begin(), others.end()}) + ": give --precision";
        throw InputError(bundle.name() + " has no " + precision + " engine; " + known
            + ". Build them with `memvp-export trt " + bundle.name() + " --" + precision + "`.");
    }
    return found;
}

// The engines whose files are there and whose graphs are still those they were built from.
std::vector<Json> present(std::vector<Json> const& entries, Bundle const& bundle)
{
    auto const missing = bundle.missing();
    std::vector<Json> kept;
    std::set<std::string> components;
    for (auto const& entry : entries)
    {
        bool const there
            = std::find(missing.begin(), missing.end(), entry.at("file").string()) == missing.end();
        if (there && isOfItsGraph(entry, bundle.manifest()))
        {
            kept.push_back(entry);
            components.insert(entry.at("component").string());
        }
    }
    for (auto const& entry : entries)
    {
        auto const& component = entry.at("component").string();
        if (!components.count(component))
        {
            auto const& precision = entry.at("precision").string();
            auto const path = bundle.path(entry.at("file").string());
            throw InputError(path.string() + " was built from another " + precision + " graph of " + component
                + " than " + bundle.name() + " has now. Build it again with `memvp-export trt " + bundle.name() + " --"
                + precision + "`.");
        }
    }
    return kept;
}

template <typename Values>
std::vector<std::string> distinct(Values begin, Values end, char const* key)
{
    std::vector<std::string> found;
    for (; begin != end; ++begin)
    {
        auto const& value = begin->at(key).string();
        if (std::find(found.begin(), found.end(), value) == found.end())
        {
            found.push_back(value);
        }
    }
    return found;
}

} // namespace

std::vector<std::pair<std::string, Json>> chooseEngines(Bundle const& bundle, std::string const& precision,
    std::function<Environment(Json const&)> const& here, bool trusted)
{
    auto const all = ofPrecision(bundle, precision);
    auto const entries = present(all, bundle);
    auto const names = distinct(all.begin(), all.end(), "component");
    std::vector<std::string> refusals;
    for (auto const& target : distinct(entries.rbegin(), entries.rend(), "target"))
    {
        std::vector<std::pair<std::string, Json>> chosen;
        for (auto const& name : names)
        {
            bool any = false;
            bool found = false;
            std::vector<std::string> whyNot;
            for (auto entry = entries.rbegin(); entry != entries.rend() && !found; ++entry)
            {
                if (entry->at("target").string() != target || entry->at("component").string() != name)
                {
                    continue;
                }
                any = true;
                auto const& listed = bundle.manifest().at("files").at(entry->at("file").string());
                EngineFile file;
                file.size = static_cast<std::uint64_t>(listed.at("size").integer());
                auto const why = problems(*entry, here(*entry), file, trusted);
                found = why.empty();
                if (found)
                {
                    chosen.emplace_back(name, *entry);
                }
                else
                {
                    whyNot.push_back(refusal(*entry, why));
                }
            }
            if (!any)
            {
                refusals.push_back("there is no " + precision + " engine of " + name + " for " + target);
            }
            else if (!found)
            {
                refusals.insert(refusals.end(), whyNot.begin(), whyNot.end());
            }
        }
        if (chosen.size() == names.size())
        {
            return chosen;
        }
    }
    throw EnvironmentLack(joined(refusals, "\n"));
}

} // namespace memvp
