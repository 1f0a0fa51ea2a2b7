// Answers from a bundle's TensorRT engines on one GPU: link memvp_runtime for this, memvp_host for all other headers.
#pragma once

#include "memvp/bundle.h"
#include "memvp/classify.h"
#include "memvp/encoder_decoder.h"
#include "memvp/errors.h"
#include "memvp/features.h"
#include "memvp/generate.h"
#include "memvp/image.h"
#include "memvp/match.h"
#include "memvp/tensor.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace memvp
{

struct ModelOptions
{
    // "fp32", "fp16", "bf16", "int8", ...; empty: the bundle's own.
    std::string precision;
    // The library of memvp-export's plugin; empty: what the variable MEMVP_PLUGIN names, else the one that was built
    // last on this machine. Looked for only where an engine needs it.
    std::filesystem::path pluginLibrary;
    // Run host code that an engine carries though it is not the plugin library of this machine.
    bool trustBundle = false;
    // The GPU, as CUDA counts them.
    int device = 0;
};

// What an image left in the model's memory: [v,d] on the device. Every lane of its model can be asked about it, as
// often as wanted; vision does not run again. Nothing inside is for an app.
class SeenImage;
using Seen = std::shared_ptr<SeenImage const>;

// The prompt or text as token ids, with its beginning-of-sentence token where the model has one (and its prefix and
// end-of-sentence token where it reads with an encoder), and what it is about; without an image (null) the model
// answers from its static tables.
struct Question
{
    std::vector<std::int64_t> ids;
    Seen seen;
};

class Lane;

// The engines of a bundle, loaded once after the same checks as in Python. Copies share them; any thread may use it.
class Model
{
public:
    // Throws InputError for a bundle or engine that is damaged, edited or newer, or has no engine in this precision;
    // EnvironmentLack with every reason why an engine cannot be loaded on this machine.
    static Model open(std::filesystem::path const& bundle, ModelOptions const& options = {});

    // Execution contexts, cache and buffers of one line of work. Lanes of a model run side by side, each in a thread.
    Lane lane() const;

    Bundle const& bundle() const noexcept;
    // What the model generates by default: the manifest's number of new tokens, and of beams.
    Settings settings() const;
    // Target, lowering and file of the engine of each component, in words.
    std::string engines() const;

    struct State;

private:
    explicit Model(std::shared_ptr<State const> state);

    std::shared_ptr<State const> mState;
};

// One line of work on the GPU. One thread at a time may use it: a second one waits. It keeps its model's engines alive,
// and gives its memory back when it ends. Every call, as opening a model, leaves the model's GPU as the thread's
// current one (cudaSetDevice). A lane that was moved from can be assigned to, or ended, and nothing else.
class Lane
{
public:
    Lane(Lane&&) noexcept;
    Lane& operator=(Lane&&) noexcept;
    ~Lane();

    // Run vision on images, as many at a time as its engine takes. Throws InputError for a picture without pixels,
    // EnvironmentLack where the GPU has too little memory.
    std::vector<Seen> see(std::vector<Image> const& images);
    Seen see(Image const& image);

    // The same for models that take features of images, which another program made.
    std::vector<Seen> see(std::vector<Features> const& features);
    Seen see(Features const& features);

    // Answers in the order of the questions, several of which run together; for memvp-llama, memvp-bart and memvp-t5.
    // Throws InputError for prompts and settings that cannot be run, VerdictError where the model gives values that are
    // not finite, EnvironmentLack where the GPU has too little memory.
    std::vector<Answer> answer(std::vector<Question> const& questions, Settings const& settings);
    Answer answer(Question const& question, Settings const& settings);

    // Logits [B,K,V], float32, at the columns `positions` [B,K] of whole prompts, which run as one batch, padded on the
    // left to the longest; for memvp-llama.
    std::vector<float> logits(std::vector<Question> const& questions, std::vector<std::int64_t> const& positions);

    // Classes of pairs of a text and images, or their scores, in the pairs' order; batch pairs run together, 0: as many
    // as the engine takes, at most 8. For families that answer in one pass; it throws as `answer` does.
    std::vector<Class> classify(std::vector<Pair> const& pairs, std::int64_t batch = 0);

    // Labels by the ids of their texts, each within the template that the manifest's `similarity` names or another one,
    // and the nearest label of each image, in their order; batch as above. For apt-clip; they throw as `answer` does.
    Labels read(std::vector<std::vector<std::int64_t>> const& texts);
    std::vector<Class> match(std::vector<Image> const& images, Labels const& labels, std::int64_t batch = 0);

    // One component of any family on tensors by name; all outputs, or those named. Throws InputError for wrong names,
    // shapes or dtypes.
    Tensors run(
        std::string const& component, Tensors const& inputs, std::vector<std::string> const& outputs = {});

private:
    friend class Model;
    class Work;
    explicit Lane(std::unique_ptr<Work> work);

    std::unique_ptr<Work> mWork;
};

} // namespace memvp
