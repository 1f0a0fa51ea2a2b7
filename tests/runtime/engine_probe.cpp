// Runs models over the fake TensorRT and CUDA as a test asks: one JSON object a line in, one a line out.
#include "fakes/fake_cuda.h"
#include "memvp/runtime.h"
#include "probe.h"

#include <map>
#include <optional>
#include <thread>

namespace
{

using namespace memvp;

std::optional<Model> gModel;
std::map<std::string, Lane> gLanes;
std::map<std::string, Seen> gSeen;

Lane& laneOf(Json const& asked)
{
    auto const name = textOr(asked, "lane", "first");
    auto const found = gLanes.find(name);
    return found != gLanes.end() ? found->second : gLanes.emplace(name, gModel->lane()).first->second;
}

std::vector<Question> questionsOf(Json const& asked)
{
    std::vector<Question> questions;
    for (auto const& each : asked.at("questions").array())
    {
        auto const image = textOr(each, "image", "");
        questions.push_back({numbersOf(each.at("ids")), image.empty() ? nullptr : gSeen.at(image)});
    }
    return questions;
}

Settings settingsOf(Json const& asked)
{
    Settings settings;
    settings.maxNewTokens = asked.at("max_new_tokens").integer();
    settings.batch = asked.at("batch").integer();
    auto const* const beams = asked.find("beams");
    settings.beams = beams ? beams->integer() : 1;
    return settings;
}

std::string idsJson(std::vector<Answer> const& answers)
{
    std::vector<std::string> words;
    for (auto const& answer : answers)
    {
        words.push_back(listText(answer.ids));
    }
    return "[" + joined(words) + "]";
}

Actions const kACTIONS{
    {"open",
        [](Json const& asked) {
            ModelOptions options;
            options.precision = textOr(asked, "precision", "");
            options.pluginLibrary = textOr(asked, "plugin", "");
            options.trustBundle = asked.at("trusted").boolean();
            options.device = static_cast<int>(asked.at("device").integer());
            gModel.emplace(Model::open(asked.at("root").string(), options));
            return textJson(gModel->engines());
        }},
    {"settings",
        [](Json const&) {
            auto const settings = gModel->settings();
            return listText({settings.maxNewTokens, settings.beams});
        }},
    {"see",
        [](Json const& asked) {
            std::vector<Image> images;
            std::vector<std::string> bytes;
            std::vector<std::string> names;
            bytes.reserve(asked.at("images").members().size());
            for (auto const& [name, given] : asked.at("images").members())
            {
                bytes.push_back(readFile(given.at("rgb").string()));
                images.push_back(imageOf(given, bytes.back()));
                names.push_back(name);
            }
            auto const seen = laneOf(asked).see(images);
            for (std::size_t index = 0; index < seen.size(); ++index)
            {
                gSeen[names[index]] = seen[index];
            }
            return std::to_string(seen.size());
        }},
    {"see features",
        [](Json const& asked) {
            std::vector<Features> shown;
            std::vector<std::string> bytes;
            std::vector<std::string> names;
            bytes.reserve(asked.at("features").members().size());
            for (auto const& [name, given] : asked.at("features").members())
            {
                bytes.push_back(readFile(given.at("file").string()));
                auto const* const values = reinterpret_cast<float const*>(bytes.back().data());
                shown.push_back({values, given.at("rows").integer(), given.at("width").integer()});
                names.push_back(name);
            }
            auto const seen = laneOf(asked).see(shown);
            for (std::size_t index = 0; index < seen.size(); ++index)
            {
                gSeen[names[index]] = seen[index];
            }
            return std::to_string(seen.size());
        }},
    {"answer",
        [](Json const& asked) { return idsJson(laneOf(asked).answer(questionsOf(asked), settingsOf(asked))); }},
    {"answer side by side",
        [](Json const& asked) {
            auto const questions = questionsOf(asked);
            auto const settings = settingsOf(asked);
            std::vector<std::string> found(4);
            Lane shared = gModel->lane();
            std::vector<std::thread> threads;
            for (std::size_t number = 0; number < found.size(); ++number)
            {
                threads.emplace_back([&, number] {
                    // Two threads to a lane: one waits.
                    Lane own = gModel->lane();
                    found[number] = idsJson((number % 2 ? shared : own).answer(questions, settings));
                });
            }
            for (auto& thread : threads)
            {
                thread.join();
            }
            return "[" + joined(found) + "]";
        }},
    {"logits",
        [](Json const& asked) {
            writeFile(asked.at("file").string(),
                laneOf(asked).logits(questionsOf(asked), numbersOf(asked.at("positions"))));
            return std::string("null");
        }},
    {"classify",
        [](Json const& asked) {
            std::vector<std::string> kept;
            auto const pairs = pairsOf(asked.at("pairs"), kept);
            std::vector<std::string> words;
            for (auto const& each : laneOf(asked).classify(pairs, asked.at("batch").integer()))
            {
                std::vector<std::string> logits;
                for (auto const value : each.logits)
                {
                    logits.push_back(realText(value));
                }
                words.push_back("[" + std::to_string(each.index) + ", " + textJson(each.label) + ", ["
                    + joined(logits) + "], " + (each.truncated ? "true" : "false") + "]");
            }
            return "[" + joined(words) + "]";
        }},
    {"match",
        [](Json const& asked) {
            std::vector<std::string> kept;
            std::vector<Image> images;
            for (auto const& pair : pairsOf(asked.at("pairs"), kept))
            {
                images.insert(images.end(), pair.images.begin(), pair.images.end());
            }
            std::vector<std::vector<std::int64_t>> texts;
            for (auto const& text : asked.at("texts").array())
            {
                texts.push_back(numbersOf(text));
            }
            auto& lane = laneOf(asked);
            std::vector<std::string> words;
            for (auto const& each : lane.match(images, lane.read(texts), asked.at("batch").integer()))
            {
                std::vector<std::string> numbers;
                for (auto const share : shares(each.logits))
                {
                    numbers.push_back(realText(share));
                }
                words.push_back("[" + std::to_string(each.index) + ", [" + joined(numbers) + "], "
                    + (each.truncated ? "true" : "false") + "]");
            }
            return "[" + joined(words) + "]";
        }},
    {"run",
        [](Json const& asked) {
            Tensors inputs;
            for (auto const& [name, given] : asked.at("inputs").members())
            {
                auto const bytes = readFile(given.at("file").string());
                inputs[name]
                    = {given.at("dtype").string(), numbersOf(given.at("shape")), {bytes.begin(), bytes.end()}};
            }
            std::vector<std::string> outputs;
            for (auto const& name : asked.at("outputs").array())
            {
                outputs.push_back(name.string());
            }
            std::vector<std::string> words;
            for (auto const& [name, tensor] : laneOf(asked).run(asked.at("component").string(), inputs, outputs))
            {
                writeFile(asked.at("folder").string() + "/" + name, tensor.bytes);
                words.push_back(textJson(name) + ": [" + textJson(tensor.dtype) + ", " + listText(tensor.shape) + "]");
            }
            return "{" + joined(words) + "}";
        }},
    {"close",
        [](Json const&) {
            gSeen.clear();
            gLanes.clear();
            gModel.reset();
            return std::string("null");
        }},
    {"forget", [](Json const& asked) { return std::to_string(gSeen.erase(asked.at("image").string())); }},
    {"capacity",
        [](Json const& asked) {
            fake::setCapacity(static_cast<std::size_t>(asked.at("bytes").integer()));
            return std::string("null");
        }},
    {"held",
        [](Json const&) {
            auto const held = fake::held();
            return listText({static_cast<std::int64_t>(held.buffers), static_cast<std::int64_t>(held.bytes),
                static_cast<std::int64_t>(held.streams), static_cast<std::int64_t>(held.mallocs)});
        }},
};

} // namespace

int main()
{
    answerLines(kACTIONS);
    kACTIONS.at("close")(Json());
}
