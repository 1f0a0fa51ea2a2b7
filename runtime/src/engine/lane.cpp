#include "cache_plan.h"
#include "device_decoder.h"
#include "memvp/runtime.h"
#include "model_state.h"
#include "seen_image.h"
#include "text.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <optional>

namespace memvp
{

namespace
{

char const* const kMODEL = "model";
constexpr std::int64_t kUSUAL_BATCH = 8;

} // namespace

// What a lane holds. Contexts go before the memory that they know of: members are given back from the last one on.
class Lane::Work
{
public:
    explicit Work(std::shared_ptr<Model::State const> model)
        : mModel(std::move(model))
    {
        std::size_t most = 0;
        for (auto const& [component, engine] : mModel->engines)
        {
            most = std::max(most, engine->activations());
        }
        mWorkspace.emplace();
        // For the largest of all: what another call still uses must not move.
        mWorkspace->activations.reserve(most);
    }

    ~Work()
    {
        // A destructor has nobody to tell.
        cudaSetDevice(mModel->device);
        cudaStreamSynchronize(mWorkspace->stream.get());
    }

    std::vector<Seen> see(std::vector<Image> const& images)
    {
        auto const lock = begin();
        std::vector<Image const*> pointers;
        for (auto const& image : images)
        {
            pointers.push_back(&image);
        }
        return seen(pointers);
    }

    std::vector<Answer> answer(std::vector<Question> const& questions, Settings const& settings)
    {
        auto const lock = begin();
        auto const& limits = decoderLimitsHere();
        auto const size = static_cast<std::size_t>(batchSize(settings, limits));
        std::vector<Answer> answers;
        for (std::size_t begun = 0; begun < questions.size(); begun += size)
        {
            auto const count = std::min(size, questions.size() - begun);
            auto const first = questions.begin() + static_cast<std::ptrdiff_t>(begun);
            std::vector<Question> const some(first, first + static_cast<std::ptrdiff_t>(count));
            auto made = generate(decoderFor(some), prompts(some), settings, limits);
            std::move(made.begin(), made.end(), std::back_inserter(answers));
        }
        return answers;
    }

    std::vector<float> logits(std::vector<Question> const& questions, std::vector<std::int64_t> const& positions)
    {
        auto const lock = begin();
        return columnLogits(decoderFor(questions), prompts(questions), positions, decoderLimitsHere());
    }

    std::vector<Class> classify(std::vector<Pair> const& pairs, std::int64_t batch)
    {
        auto const lock = begin();
        if (!mClassifier)
        {
            auto const& manifest = mModel->bundle.manifest();
            mClassifier.emplace(manifest, mModel->engine(kMODEL)->entry());
        }
        auto const most = mClassifier->maxBatch();
        if (batch > most || batch < 0)
        {
            throw InputError("batch is " + std::to_string(batch) + "; "
                + (batch < 0 ? "it must be at least 1." : "the model takes at most " + std::to_string(most) + "."));
        }
        auto const size = static_cast<std::size_t>(batch ? batch : std::min(kUSUAL_BATCH, most));
        std::vector<Class> found;
        for (std::size_t begun = 0; begun < pairs.size(); begun += size)
        {
            auto const first = pairs.begin() + static_cast<std::ptrdiff_t>(begun);
            auto const count = static_cast<std::ptrdiff_t>(std::min(size, pairs.size() - begun));
            std::vector<Pair> const some(first, first + count);
            auto const& output = mClassifier->output();
            auto made = mClassifier->classes(some, compute(kMODEL, mClassifier->inputs(some), {output}).at(output));
            std::move(made.begin(), made.end(), std::back_inserter(found));
        }
        return found;
    }

    Tensors run(std::string const& component, Tensors const& inputs, std::vector<std::string> const& outputs)
    {
        auto const lock = begin();
        return compute(component, inputs, outputs);
    }

private:
    // See Lane::run; the lane is held already.
    Tensors compute(std::string const& component, Tensors const& inputs, std::vector<std::string> const& outputs)
    {
        auto const engine = mModel->engine(component);
        auto& execution = mExecutions.try_emplace(component, engine, *mWorkspace).first->second;
        std::size_t rows = 1;
        std::map<std::string, Bound> bound;
        std::vector<std::int64_t> positions;
        for (auto const& [name, tensor] : inputs)
        {
            checkTensor(name, tensor, engine->port(name, true));
            rows = std::max(rows, tensor.shape.empty() ? 1 : static_cast<std::size_t>(tensor.shape[0]));
            if (name == "position_ids" && tensor.dtype == "int64")
            {
                positions.resize(tensor.bytes.size() / sizeof(std::int64_t));
                std::copy(tensor.bytes.begin(), tensor.bytes.end(), reinterpret_cast<unsigned char*>(positions.data()));
            }
        }
        std::vector<std::string> wanted = outputs;
        for (auto const& name : outputs)
        {
            engine->port(name, false);
        }
        for (auto const& port : engine->entry().at("outputs").array())
        {
            if (outputs.empty())
            {
                wanted.push_back(port.at("name").string());
            }
        }
        Tensors found;
        withMemory(component, rows, [&] {
            auto& buffers = mBuffers[component];
            for (auto const& [name, tensor] : inputs)
            {
                auto* const place = buffers[name].reserve(tensor.bytes.size(), true);
                mWorkspace->stream.upload(place, tensor.bytes.data(), tensor.bytes.size());
                bound[name] = {tensor.shape, place};
            }
            execution.begin(bound, positions);
            bool const inPlace = isInPlace(engine->entry());
            std::map<std::string, void*> places;
            for (auto const& port : engine->entry().at("outputs").array())
            {
                auto const& name = port.at("name").string();
                // A cache in place is written where it is read.
                auto const past = bound.find(inPlace ? pastOf(name) : "");
                auto*& place = places[name];
                place = past != bound.end() ? past->second.address
                                            : buffers[name].reserve(execution.bytesOf(name), true);
                execution.bind(name, place);
            }
            execution.run();
            for (auto const& name : wanted)
            {
                Tensor tensor{engine->port(name, false).dtype, execution.shapeOf(name), {}};
                tensor.bytes.resize(execution.bytesOf(name));
                auto& kept = found.emplace(name, std::move(tensor)).first->second;
                mWorkspace->stream.download(kept.bytes.data(), places.at(name), kept.bytes.size());
            }
            mWorkspace->stream.synchronize();
        });
        return found;
    }

    static bool isInPlace(Json const& entry)
    {
        auto const& cache = entry.at("cache");
        return !cache.isNull() && cache.at("kind").string() == "in_place";
    }

    static void checkTensor(std::string const& name, Tensor const& tensor, Port const& port)
    {
        auto const& shape = tensor.shape;
        bool const whole = std::all_of(shape.begin(), shape.end(), [](auto length) { return length >= 0; })
            && bytesOf(tensor.shape, port.size) == tensor.bytes.size();
        if (tensor.dtype != port.dtype)
        {
            throw InputError("the input " + reprOf(name) + " is " + tensor.dtype + ", the graph takes " + port.dtype);
        }
        if (!whole)
        {
            throw InputError("the input " + reprOf(name) + " has " + std::to_string(tensor.bytes.size())
                + " bytes, which are no " + tensor.dtype + " of the shape " + listText(tensor.shape));
        }
    }

    static std::vector<std::vector<std::int64_t>> prompts(std::vector<Question> const& questions)
    {
        std::vector<std::vector<std::int64_t>> rows;
        for (auto const& question : questions)
        {
            rows.push_back(question.ids);
        }
        return rows;
    }

    // One call at a time; the device is the thread's own choice.
    std::unique_lock<std::mutex> begin()
    {
        std::unique_lock<std::mutex> lock(mMutex);
        requireCuda(cudaSetDevice(mModel->device), "cudaSetDevice");
        return lock;
    }

    DecoderLimits const& decoderLimitsHere()
    {
        if (!mLimits)
        {
            auto const& manifest = mModel->bundle.manifest();
            if (manifest.at("family").string() != "memvp-llama")
            {
                throw InputError("the bundle is of the family " + manifest.at("family").string()
                    + ": this version answers for memvp-llama, and runs components of others (Lane::run).");
            }
            mLimits = decoderLimits(manifest, mModel->engine("decoder")->entry());
        }
        return *mLimits;
    }

    std::vector<Seen> seen(std::vector<Image const*> const& images)
    {
        decoderLimitsHere();
        if (!mVision)
        {
            auto const& preprocessing = mModel->bundle.manifest().at("preprocessing");
            mVision.emplace(mModel->engine("vision"), preprocessing, *mWorkspace);
        }
        std::vector<Seen> found;
        for (auto const& made : mVision->see(images))
        {
            made->model = mModel->number;
            found.push_back(made);
        }
        return found;
    }

    // The decoder with the visual memory of these questions.
    DeviceDecoder& decoderFor(std::vector<Question> const& questions)
    {
        decoderLimitsHere();
        auto const engine = mModel->engine("decoder");
        if (!mDecoder)
        {
            mDecoder.emplace(engine, *mWorkspace);
        }
        Shape shape;
        for (auto const& port : engine->entry().at("inputs").array())
        {
            if (port.at("name").string() == "visual_memory")
            {
                auto const lengths = Lengths{{"batch", static_cast<std::int64_t>(questions.size())}};
                for (auto const& dim : port.at("dims").array())
                {
                    shape.push_back(lengthOf(dim, lengths).value_or(0));
                }
            }
        }
        auto const size = bytesOf(shape, engine->port("visual_memory", true).size);
        auto const row = questions.empty() ? 0 : size / questions.size();
        withMemory("decoder", questions.size(), [&] {
            auto* const place = static_cast<char*>(mVisual.reserve(size));
            for (std::size_t index = 0; index < questions.size(); ++index)
            {
                auto const& image = questions[index].seen ? questions[index].seen : nothingSeen();
                if (image->model != mModel->number || image->size != row)
                {
                    throw InputError("question " + std::to_string(index)
                        + " is about an image that another model saw: let this one see it.");
                }
                mWorkspace->stream.copy(place + index * row, image->rows.get(), row);
            }
            mDecoder->setVisual(shape, place);
        });
        return *mDecoder;
    }

    // What a row without an image has.
    Seen const& nothingSeen()
    {
        if (!mNothing)
        {
            mNothing = seen({nullptr})[0];
        }
        return mNothing;
    }

    std::shared_ptr<Model::State const> mModel;
    std::mutex mMutex;
    std::optional<DecoderLimits> mLimits;
    std::optional<Classifier> mClassifier;
    std::optional<Workspace> mWorkspace;
    DeviceBuffer mVisual;
    Seen mNothing;
    std::map<std::string, std::map<std::string, DeviceBuffer>> mBuffers;
    std::map<std::string, Execution> mExecutions;
    std::optional<Vision> mVision;
    std::optional<DeviceDecoder> mDecoder;
};

Lane::Lane(std::unique_ptr<Work> work)
    : mWork(std::move(work))
{
}

Lane::Lane(Lane&&) noexcept = default;
Lane& Lane::operator=(Lane&&) noexcept = default;
Lane::~Lane() = default;

std::vector<Seen> Lane::see(std::vector<Image> const& images)
{
    return mWork->see(images);
}

Seen Lane::see(Image const& image)
{
    return mWork->see({image})[0];
}

std::vector<Answer> Lane::answer(std::vector<Question> const& questions, Settings const& settings)
{
    return mWork->answer(questions, settings);
}

Answer Lane::answer(Question const& question, Settings const& settings)
{
    return mWork->answer({question}, settings)[0];
}

std::vector<float> Lane::logits(std::vector<Question> const& questions, std::vector<std::int64_t> const& positions)
{
    return mWork->logits(questions, positions);
}

std::vector<Class> Lane::classify(std::vector<Pair> const& pairs, std::int64_t batch)
{
    return mWork->classify(pairs, batch);
}

Tensors Lane::run(std::string const& component, Tensors const& inputs, std::vector<std::string> const& outputs)
{
    return mWork->run(component, inputs, outputs);
}

Model::Model(std::shared_ptr<State const> state)
    : mState(std::move(state))
{
}

Model Model::open(std::filesystem::path const& bundle, ModelOptions const& options)
{
    return Model(loadModel(bundle, options));
}

Lane Model::lane() const
{
    requireCuda(cudaSetDevice(mState->device), "cudaSetDevice");
    return Lane(std::make_unique<Lane::Work>(mState));
}

Bundle const& Model::bundle() const noexcept
{
    return mState->bundle;
}

Settings Model::settings() const
{
    Settings settings;
    auto const& generation = mState->bundle.manifest().at("generation");
    settings.maxNewTokens = generation.isNull() ? 1 : generation.at("max_new_tokens").integer();
    return settings;
}

std::string Model::engines() const
{
    return mState->described;
}

} // namespace memvp
