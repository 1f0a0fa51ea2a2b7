#include "manifest.h"

#include "file_view.h"
#include "forms.h"
#include "memvp/errors.h"
#include "sha256.h"
#include "text.h"

#include <fstream>
#include <iterator>

namespace memvp
{
namespace
{

namespace fs = std::filesystem;

constexpr int kSCHEMA = 1;
char const* const kFORMAT = "memvp-export bundle";
char const* const kMANIFEST = "manifest.json";

// What schema 1 says. Families and precisions read their own entries further.
Form content()
{
    auto const text = typed(Json::Type::kSTRING);
    auto const number = typed(Json::Type::kINTEGER);
    auto const null = typed(Json::Type::kNULL);
    auto const object = typed(Json::Type::kOBJECT);
    auto const ports = listOf(membersOf({{"name", text}, {"dtype", text}, {"dims", listOf(anyOf({length(), text}))}}));
    auto const ranges = namesTo(pairOf(length(), length()));
    auto const cache = anyOf({membersOf({{"kind", text}, {"axis", length()}, {"layers", length()}}), null});
    auto const gpu = anyOf({membersOf({{"name", text}, {"sm", text}, {"driver", text}}), null});
    auto const plugin = anyOf({membersOf({{"operators", listOf(text)}, {"build_id", anyOf({text, null})},
                                   {"sha256", anyOf({text, null})}, {"embedded", typed(Json::Type::kBOOL)}}),
        null});
    auto const lengths = listOf(length());
    auto const profiles = listOf(membersOf({{"name", text},
        {"shapes", namesTo(membersOf({{"min", lengths}, {"opt", lengths}, {"max", lengths}}))}}));
    auto const graphs = namesTo(membersOf({{"file", text}, {"opset", number}}));
    auto const component = membersOf({{"inputs", ports}, {"outputs", ports}, {"ranges", ranges}, {"cache", cache},
        {"graphs", graphs}});
    auto const engine = membersOf({{"component", text}, {"file", text}, {"layers", text}, {"precision", text},
        {"lowering", text}, {"target", text}, {"tensorrt", text}, {"flavor", text}, {"gpu", gpu}, {"plugin", plugin},
        {"inputs", ports}, {"outputs", ports}, {"ranges", ranges}, {"cache", cache}, {"profiles", profiles}});
    return membersOf({{"files", namesTo(membersOf({{"size", number}, {"sha256", text}}))}, {"family", text},
        {"task", text}, {"precision", text}, {"options", object}, {"config", object}, {"preprocessing", object},
        {"tokenizer", membersOf({{"type", text}, {"file", text}})},
        {"generation", anyOf({membersOf({{"max_new_tokens", number}, {"max_sequence", number}}), null})},
        {"labels", anyOf({typed(Json::Type::kARRAY), null})}, {"memory", anyOf({object, null})},
        {"components", namesTo(component)}, {"engines", listOf(engine)},
        {"samples", anyOf({membersOf({{"tensors", text}, {"requests", text}, {"answers", text}}), null})},
        {"sources", listOf(membersOf({{"key", text}, {"file", text}, {"size", number}, {"sha256", text}}))}});
}

// A truth value is 1 or 0 to Python, which wrote the manifest.
bool isSchema(Json const& schema)
{
    return (schema.isNumber() && schema.real() == kSCHEMA) || (schema.is(Json::Type::kBOOL) && schema.boolean());
}

bool endsWhole(std::string const& text)
{
    // Of what memvp-export writes, only the last brace begins a line.
    auto const last = text.find_last_not_of(" \t\n\r\v\f");
    return last != std::string::npos && last > 0 && text.compare(last - 1, 2, "\n}") == 0;
}

} // namespace

Json readManifest(fs::path const& root, std::string const& name)
{
    std::error_code failed;
    if (!fs::exists(root, failed) && !failed)
    {
        throw InputError(name + " does not exist.");
    }
    if (!sizeOf(root / kMANIFEST))
    {
        throw InputError(name + " is not a bundle: it has no " + kMANIFEST + ".");
    }
    std::ifstream file(root / kMANIFEST, std::ios::binary);
    std::string const text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file)
    {
        throw EnvironmentLack((root / kMANIFEST).string() + " cannot be read.");
    }
    Json manifest;
    try
    {
        manifest = Json::parse(text);
    }
    catch (JsonFault const& wrong)
    {
        throw InputError(name + " is " + (endsWhole(text) ? "edited" : "cut short") + ": " + kMANIFEST
            + " is not whole JSON (" + wrong.what() + ").");
    }
    auto const* const format = manifest.is(Json::Type::kOBJECT) ? manifest.find("format") : nullptr;
    if (!format || !format->isString() || format->string() != kFORMAT)
    {
        throw InputError(name + " is not a bundle: " + kMANIFEST + " is not of the format " + reprOf(kFORMAT) + ".");
    }
    auto const* const schema = manifest.find("schema");
    if (schema && schema->isInteger() && schema->integer() > kSCHEMA)
    {
        throw InputError(name + " is newer than this tool: its manifest has schema " + schema->repr()
            + ", this tool reads up to " + std::to_string(kSCHEMA) + ". Upgrade memvp-export.");
    }
    auto const* const digest = manifest.find("digest");
    bool const intact = digest && digest->isString() && digest->string() == sha256(manifest.canonical("digest"));
    if (!schema || !isSchema(*schema) || !intact)
    {
        throw InputError(
            name + " is edited: " + kMANIFEST + " does not match its own digest. Export the bundle again.");
    }
    static Form const form = content();
    if (auto const wrong = fault(manifest, form); !wrong.empty())
    {
        throw InputError(name + " is edited: " + wrong + " in its " + kMANIFEST + ". Export the bundle again.");
    }
    return manifest;
}

} // namespace memvp
