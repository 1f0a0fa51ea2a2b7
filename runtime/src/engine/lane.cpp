#include "device_decoder.h"
#include "device_encoder.h"
#include "host_execution.h"
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
char const* const kIMAGE = "image_encoder";
char const* const kTEXT = "text_encoder";
char const* const kVISUAL_MEMORY = "visual_memory";
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

    std::vector<Seen> see(std::vector<Features> const& features)
    {
        auto const lock = begin();
        return seen(features);
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
        bool const behind = writesAfterEncoder(mModel->bundle.manifest());
        auto const size = static_cast<std::size_t>(
            behind ? batchSize(settings, writingLimitsHere()) : batchSize(settings, decoderLimitsHere()));
        std::vector<Answer> answers;
        for (std::size_t begun = 0; begun < questions.size(); begun += size)
        {
            auto const count = std::min(size, questions.size() - begun);
            auto const first = questions.begin() + static_cast<std::ptrdiff_t>(begun);
            std::vector<Question> const some(first, first + static_cast<std::ptrdiff_t>(count));
            auto made = behind ? generate(encoderFor(some), decoderHere(), prompts(some), settings, writingLimitsHere())
                               : generate(decoderFor(some), prompts(some), settings, decoderLimitsHere());
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
        auto const size = rowsAtOnce(batch, mClassifier->maxBatch());
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

    Labels read(std::vector<std::vector<std::int64_t>> const& texts)
    {
        auto const lock = begin();
        auto const& matcher = matcherHere();
        auto const size = static_cast<std::size_t>(matcher.maxTexts());
        Labels labels;
        for (std::size_t begun = 0; begun < texts.size(); begun += size)
        {
            auto const first = texts.begin() + static_cast<std::ptrdiff_t>(begun);
            auto const count = static_cast<std::ptrdiff_t>(std::min(size, texts.size() - begun));
            std::vector<std::vector<std::int64_t>> const some(first, first + count);
            matcher.add(labels, some, compute(kTEXT, matcher.texts(some), {"text_embeds"}).at("text_embeds"));
        }
        return labels;
    }

    std::vector<Class> match(std::vector<Image> const& images, Labels const& labels, std::int64_t batch)
    {
        auto const lock = begin();
        auto const& matcher = matcherHere();
        auto const size = rowsAtOnce(batch, matcher.maxImages());
        std::vector<Class> found;
        for (std::size_t begun = 0; begun < images.size(); begun += size)
        {
            auto const first = images.begin() + static_cast<std::ptrdiff_t>(begun);
            auto const count = static_cast<std::ptrdiff_t>(std::min(size, images.size() - begun));
            auto const points = compute(kIMAGE, matcher.images({first, first + count}), {"image_embeds"});
            auto made = matcher.nearest(points.at("image_embeds"), labels);
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
        return mExecutions.try_emplace(component, mModel->engine(component), *mWorkspace)
            .first->second.run(inputs, outputs);
    }

    // Of a model that answers in one pass.
    static std::size_t rowsAtOnce(std::int64_t batch, std::int64_t most)
    {
        if (batch > most || batch < 0)
        {
            throw InputError("batch is " + std::to_string(batch) + "; "
                + (batch < 0 ? "it must be at least 1." : "the model takes at most " + std::to_string(most) + "."));
        }
        return static_cast<std::size_t>(batch ? batch : std::min(kUSUAL_BATCH, most));
    }

    LabelMatcher const& matcherHere()
    {
        if (!mMatcher)
        {
            auto const& manifest = mModel->bundle.manifest();
            mMatcher.emplace(manifest, mModel->engine(kIMAGE)->entry(), mModel->engine(kTEXT)->entry());
        }
        return *mMatcher;
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

    // One call at a time. The device stays the thread's: to go back to another would make a context there, in the
    // memory of a GPU that the app may not use.
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
                auto const& family = manifest.at("family").string();
                throw InputError("the bundle is of the family " + family
                    + (writesAfterEncoder(manifest)
                            ? ": logits are those of an answer's tokens there (Settings::keepLogits)."
                            : ": this version writes for memvp-llama, memvp-bart and memvp-t5, and runs components of "
                              "others (Lane::run)."));
            }
            mLimits = decoderLimits(manifest, mModel->engine("decoder")->entry());
        }
        return *mLimits;
    }

    EncoderDecoderLimits const& writingLimitsHere()
    {
        if (!mWritingLimits)
        {
            mWritingLimits = encoderDecoderLimits(mModel->bundle.manifest(), mModel->engine("encoder")->entry(),
                mModel->engine("decoder")->entry());
        }
        return *mWritingLimits;
    }

    // Of pointers to images, or of features.
    template <typename Shown>
    std::vector<Seen> seen(Shown const& images)
    {
        if (!writesAfterEncoder(mModel->bundle.manifest()))
        {
            decoderLimitsHere();
        }
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
        if (std::any_of(questions.begin(), questions.end(), [](Question const& each) { return !each.seen; }))
        {
            requireNothingSeen();
        }
        decoderHere().setConstant({{kVISUAL_MEMORY, visualOf(decoderHere().engine(), questions)}});
        return *mDecoder;
    }

    // The encoder with the visual memory of these questions, before the decoder.
    DeviceEncoder& encoderFor(std::vector<Question> const& questions)
    {
        if (!mEncoder)
        {
            mEncoder.emplace(mModel->engine("encoder"), decoderHere(), *mWorkspace);
        }
        auto const encoder = mModel->engine("encoder");
        bool const takes = encoder->ports().count(kVISUAL_MEMORY);
        mEncoder->setVisual(visualOf(takes ? *encoder : decoderHere().engine(), questions));
        return *mEncoder;
    }

    DeviceDecoder& decoderHere()
    {
        if (!mDecoder)
        {
            mDecoder.emplace(mModel->engine("decoder"), *mWorkspace);
        }
        return *mDecoder;
    }

    // What questions are about, as an engine takes it: [B,v,d].
    Bound visualOf(Engine const& engine, std::vector<Question> const& questions)
    {
        Shape shape;
        for (auto const& port : engine.entry().at("inputs").array())
        {
            if (port.at("name").string() == kVISUAL_MEMORY)
            {
                auto const lengths = Lengths{{"batch", static_cast<std::int64_t>(questions.size())}};
                for (auto const& dim : port.at("dims").array())
                {
                    shape.push_back(lengthOf(dim, lengths).value_or(0));
                }
            }
        }
        auto const size = bytesOf(shape, engine.port(kVISUAL_MEMORY, true).size);
        auto const row = questions.empty() ? 0 : size / questions.size();
        void* memory = nullptr;
        withMemory("decoder", questions.size(), [&] {
            auto* const place = static_cast<char*>(mVisual.reserve(size));
            for (std::size_t index = 0; index < questions.size(); ++index)
            {
                auto const& image = questions[index].seen ? questions[index].seen : mNothing;
                if (!image)
                {
                    mWorkspace->stream.zero(place + index * row, row);
                    continue;
                }
                if (image->model != mModel->number || image->size != row)
                {
                    throw InputError("question " + std::to_string(index)
                        + " is about an image that another model saw: let this one see it.");
                }
                mWorkspace->stream.copy(place + index * row, image->rows.get(), row);
            }
            memory = place;
        });
        return {std::move(shape), memory};
    }

    // Have at hand what a row without an image has; behind an encoder that is zeros.
    void requireNothingSeen()
    {
        if (!mNothing)
        {
            mNothing = seen(std::vector<Image const*>{nullptr})[0];
        }
    }

    std::shared_ptr<Model::State const> mModel;
    std::mutex mMutex;
    std::optional<DecoderLimits> mLimits;
    std::optional<EncoderDecoderLimits> mWritingLimits;
    std::optional<Classifier> mClassifier;
    std::optional<LabelMatcher> mMatcher;
    std::optional<Workspace> mWorkspace;
    DeviceBuffer mVisual;
    Seen mNothing;
    std::map<std::string, HostExecution> mExecutions;
    std::optional<Vision> mVision;
    std::optional<DeviceDecoder> mDecoder;
    std::optional<DeviceEncoder> mEncoder;
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

std::vector<Seen> Lane::see(std::vector<Features> const& features)
{
    return mWork->see(features);
}

Seen Lane::see(Features const& features)
{
    return mWork->see(std::vector<Features>{features})[0];
}

Seen Lane::see(Image const& image)
{
    return mWork->see(std::vector<Image>{image})[0];
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

Labels Lane::read(std::vector<std::vector<std::int64_t>> const& texts)
{
    return mWork->read(texts);
}

std::vector<Class> Lane::match(std::vector<Image> const& images, Labels const& labels, std::int64_t batch)
{
    return mWork->match(images, labels, batch);
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
    auto const* const beams = generation.isNull() ? nullptr : generation.find("num_beams");
    settings.beams = beams ? beams->integer() : 1;
    return settings;
}

std::string Model::engines() const
{
    return mState->described;
}

} // namespace memvp
