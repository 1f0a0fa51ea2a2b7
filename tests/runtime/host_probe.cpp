// Calls the runtime library's host part as a test asks: one JSON object a line in, one a line out.
#include "cache_plan.h"
#include "choice.h"
#include "closed_form.h"
#include "elf.h"
#include "memvp/bundle.h"
#include "memvp/classify.h"
#include "memvp/encoder_decoder.h"
#include "memvp/errors.h"
#include "memvp/features.h"
#include "memvp/generate.h"
#include "memvp/image.h"
#include "plugin_info.h"
#include "preflight.h"
#include "probe.h"
#include "sha256.h"
#include "sha256_blocks.h"

#include <algorithm>
#include <type_traits>

namespace
{

using namespace memvp;

Shapes shapesOf(Json const& object)
{
    Shapes found;
    for (auto const& [name, list] : object.members())
    {
        found[name] = numbersOf(list);
    }
    return found;
}

Environment environmentOf(Json const& here)
{
    Environment made;
    if (here.at("tensorrt").isString())
    {
        made.tensorrt = here.at("tensorrt").string();
    }
    made.flavor = here.at("flavor").string();
    if (auto const& gpu = here.at("gpu"); !gpu.isNull())
    {
        made.gpu = Gpu{gpu.at("name").string(), gpu.at("sm").string(), gpu.at("driver").string(),
            gpu.at("runtime").string(), static_cast<std::uint64_t>(gpu.at("memory").integer()),
            static_cast<std::uint64_t>(gpu.at("free").integer())};
    }
    made.whyNoGpu = textOr(here, "why_no_gpu", "");
    if (auto const& plugin = here.at("plugin"); !plugin.isNull())
    {
        made.plugin = InstalledPlugin{plugin.at("build_id").string(), plugin.at("sha256").string(), {}, true};
        for (auto const& name : plugin.at("operators").array())
        {
            made.plugin->operators.push_back(name.string());
        }
        auto const* const runs = plugin.find("runs_here");
        made.plugin->runsHere = !runs || runs->boolean();
    }
    made.whyNoPlugin = textOr(here, "why_no_plugin", "");
    made.activations = static_cast<std::uint64_t>(here.at("activations").integer());
    return made;
}

EngineFile fileOf(Json const& file)
{
    EngineFile made{static_cast<std::uint64_t>(file.at("size").integer()), textOr(file, "sha256", ""),
        textOr(file, "listed", ""), {}};
    if (auto const* const known = file.find("known_code"); known && !known->isNull())
    {
        made.knownCode = known->boolean();
    }
    return made;
}

std::vector<std::vector<std::int64_t>> rowsOf(Json const& lists)
{
    std::vector<std::vector<std::int64_t>> rows;
    for (auto const& list : lists.array())
    {
        rows.push_back(numbersOf(list));
    }
    return rows;
}

Settings settingsOf(Json const& asked)
{
    auto const* const beams = asked.find("beams");
    return {asked.at("max_new_tokens").integer(), asked.at("batch").integer(), !beams || beams->integer() == 1,
        beams ? beams->integer() : 1};
}

std::string answersJson(std::vector<Answer> const& answers, std::string const& logits)
{
    std::vector<std::string> words;
    std::vector<float> kept;
    for (auto const& answer : answers)
    {
        words.push_back(std::string("[") + listText(answer.ids) + ", " + (answer.truncated ? "true" : "false") + ", "
            + std::to_string(answer.logits.size()) + "]");
        for (auto const& column : answer.logits)
        {
            kept.insert(kept.end(), column.begin(), column.end());
        }
    }
    writeFile(logits, kept);
    return "[" + joined(words) + "]";
}

Actions const kACTIONS{
    {"canonical",
        [](Json const& asked) { return textJson(Json::parse(readFile(asked.at("file").string())).canonical()); }},
    {"repr", [](Json const& asked) { return textJson(asked.at("value").repr()); }},
    {"sha256", [](Json const& asked) { return textJson(sha256File(asked.at("file").string())); }},
    {"plain blocks",
        [](Json const& asked) {
            // The state after whole blocks, both ways.
            auto const bytes = readFile(asked.at("file").string());
            std::vector<std::int64_t> states;
            for (auto const compress : {compressBlocks, compressBlocksPlain})
            {
                std::uint32_t state[8] = {1, 2, 3, 4, 5, 6, 7, 8};
                compress(state, reinterpret_cast<unsigned char const*>(bytes.data()), bytes.size() / 64);
                states.insert(states.end(), state, state + 8);
            }
            return listText(states);
        }},
    {"open",
        [](Json const& asked) {
            auto const bundle = Bundle::open(asked.at("root").string(), asked.at("verify").boolean());
            return listJson(bundle.missing());
        }},
    {"path",
        [](Json const& asked) {
            return textJson(Bundle::open(asked.at("root").string()).path(asked.at("name").string()).string());
        }},
    {"pixels",
        [](Json const& asked) {
            Preprocessing const made(asked.at("spec"));
            auto const bytes = readFile(asked.at("rgb").string());
            auto image = imageOf(asked, bytes);
            image.rowBytes = static_cast<std::size_t>(asked.at("row_bytes").integer());
            writeFile(asked.at("pixels").string(), made.pixels(image));
            writeFile(asked.at("mask").string(), made.mask(image));
            return listText({made.height(), made.width()});
        }},
    {"pooled",
        [](Json const& asked) {
            auto const bytes = readFile(asked.at("features").string());
            auto const* const values = reinterpret_cast<float const*>(bytes.data());
            FeaturePooling const made(asked.at("spec"));
            writeFile(asked.at("pooled").string(),
                made.pooled({values, asked.at("rows").integer(), asked.at("width").integer()}));
            return listText({made.rows(), made.width()});
        }},
    {"check preprocessing",
        [](Json const& asked) {
            Preprocessing const made(asked.at("spec"));
            return listText({made.height(), made.width()});
        }},
    {"library fault", [](Json const& asked) { return textJson(libraryFault(asked.at("file").string())); }},
    {"holds only",
        [](Json const& asked) {
            return std::string(holdsOnly(asked.at("engine").string(), asked.at("library").string()) ? "true" : "false");
        }},
    {"runs on",
        [](Json const& asked) {
            auto const info = pluginInfo(asked.at("file").string(), asked.at("said").string());
            return std::string(info.runsOn(asked.at("capability").string()) ? "true" : "false");
        }},
    {"problems",
        [](Json const& asked) {
            return listJson(problems(asked.at("entry"), environmentOf(asked.at("here")), fileOf(asked.at("file")),
                asked.at("trusted").boolean()));
        }},
    {"require",
        [](Json const& asked) {
            requireLoadable(asked.at("entry"), environmentOf(asked.at("here")), fileOf(asked.at("file")),
                asked.at("trusted").boolean());
            return std::string("null");
        }},
    {"choose",
        [](Json const& asked) {
            auto const bundle = Bundle::open(asked.at("root").string());
            auto const here = environmentOf(asked.at("here"));
            auto const environment = [&here](Json const& entry) {
                auto made = here;
                made.flavor = entry.at("target").string() == "tensorrt-rtx" ? "tensorrt-rtx" : "tensorrt";
                return made;
            };
            std::vector<std::string> files;
            for (auto const& [name, entry] :
                chooseEngines(bundle, asked.at("precision").string(), environment, asked.at("trusted").boolean()))
            {
                files.push_back(entry.at("file").string());
            }
            return listJson(files);
        }},
    {"check shapes",
        [](Json const& asked) {
            auto const shapes = shapesOf(asked.at("shapes"));
            checkDims(asked.at("entry"), shapes);
            checkColumns(asked.at("entry"), shapes, numbersOf(asked.at("positions")));
            return std::to_string(chooseProfile(asked.at("entry"), shapes));
        }},
    {"built ranges",
        [](Json const& asked) {
            std::vector<std::string> words;
            for (auto const& [name, range] : builtRanges(asked.at("entry")))
            {
                words.push_back(textJson(name) + ": " + listText({range.lowest, range.highest}));
            }
            return "{" + joined(words) + "}";
        }},
    {"terms", [](Json const& asked) { return listJson(termsOf(asked.at("dim"))); }},
    {"pieces",
        [](Json const& asked) { return listText(pieces(asked.at("columns").integer(), asked.at("most").integer())); }},
    {"present",
        [](Json const& asked) {
            CachePlan plan(asked.at("entry"), asked.at("batch").integer());
            plan.grow(asked.at("held").integer());
            std::vector<std::string> words;
            for (auto const& ports : plan.ports())
            {
                words.push_back(listText(plan.pastShape(ports)));
                plan.checkPresent(ports, numbersOf(asked.at("shape")), asked.at("columns").integer());
            }
            return "[" + joined(words) + "]";
        }},
    {"classifier inputs",
        [](Json const& asked) {
            Classifier const made(asked.at("manifest"), asked.at("entry"));
            std::vector<std::string> kept;
            auto const pairs = pairsOf(asked.at("pairs"), kept);
            std::vector<std::string> words;
            for (auto const& [name, tensor] : made.inputs(pairs))
            {
                writeFile(asked.at("folder").string() + "/" + name, tensor.bytes);
                words.push_back(textJson(name) + ": [" + textJson(tensor.dtype) + ", " + listText(tensor.shape) + "]");
            }
            return "{" + joined(words) + "}";
        }},
    {"generate",
        [](Json const& asked) {
            auto const limits = decoderLimits(asked.at("manifest"), asked.at("entry"));
            auto const settings = settingsOf(asked);
            batchSize(settings, limits);
            ClosedForm decoder(asked.at("entry"), numbersOf(asked.at("visual")));
            auto const answers = generate(decoder, rowsOf(asked.at("prompts")), settings, limits);
            return "[" + answersJson(answers, asked.at("logits").string()) + ", " + decoder.calls() + "]";
        }},
    {"write",
        [](Json const& asked) {
            auto const limits
                = encoderDecoderLimits(asked.at("manifest"), asked.at("encoder"), asked.at("decoder"));
            auto const settings = settingsOf(asked);
            auto const size = static_cast<std::size_t>(batchSize(settings, limits));
            auto const texts = rowsOf(asked.at("texts"));
            auto const visual = numbersOf(asked.at("visual"));
            std::vector<Answer> answers;
            ClosedForm decoder(asked.at("decoder"), {});
            for (std::size_t begun = 0; begun < texts.size(); begun += size)
            {
                auto const end = std::min(begun + size, texts.size());
                auto const part = [begun, end](auto const& all) {
                    return std::decay_t<decltype(all)>(all.begin() + static_cast<std::ptrdiff_t>(begun),
                        all.begin() + static_cast<std::ptrdiff_t>(end));
                };
                ClosedFormEncoder encoder(decoder, part(visual));
                for (auto& answer : generate(encoder, decoder, part(texts), settings, limits))
                {
                    answers.push_back(std::move(answer));
                }
            }
            return "[" + answersJson(answers, asked.at("logits").string()) + ", " + decoder.calls() + "]";
        }},
    {"column logits",
        [](Json const& asked) {
            auto const limits = decoderLimits(asked.at("manifest"), asked.at("entry"));
            ClosedForm decoder(asked.at("entry"), numbersOf(asked.at("visual")));
            auto const rows = rowsOf(asked.at("prompts"));
            auto const positions = numbersOf(asked.at("positions"));
            writeFile(asked.at("logits").string(), columnLogits(decoder, rows, positions, limits));
            return decoder.calls();
        }},
};

} // namespace

int main()
{
    answerLines(kACTIONS);
}
