// The C interface: checks a problem, chooses its path and enqueues the kernels.
//
//   path     | when                                       | kernels
//   decode   | few tokens a sample, rows of whole vectors | few tokens in all: pass with the tables, finish
//            |                                            | else: static scores, row pass, static values
//   products | else; on tensor cores or in general form   | scores, [sum of splits,] values
#include "decode.cuh"
#include "memvp_kernels.h"
#include "products.cuh"

#include <algorithm>
#include <type_traits>

namespace memvp
{
namespace
{

// Beyond this many tokens a sample, reading the rows for each four of them costs more than the products' way.
constexpr int kDecodeTokens = 8;
// Up to this many tokens in all, reading the tables with the rows of each sample is cheaper than two more launches.
constexpr int kFusedTokens = 4;
// Work is split for about two blocks a multiprocessor, but not for more than these: so the workspace is the same on
// every GPU.
constexpr int64_t kMaxBlocks = 384;
constexpr int64_t kMaxScoreSplits = 32;
constexpr int64_t kMinSplitWidth = 128;
constexpr int64_t kMaxRowSplits = 128;
constexpr int64_t kMaxRowsPerSplit = 512;
// A second block on a multiprocessor is worth its partial sums, which are written and read, if it has this many tiles.
constexpr int64_t kMinTilesPerSplit = 4;

struct Device
{
    cudaError_t error;
    int capability; // 90 is sm_90
    int multiprocessors;
    int sharedPerMultiprocessor;
    int sharedPerBlock;
};

Device readDevice(int index)
{
    Device device{};
    int major = 0;
    int minor = 0;
    auto const read = [&](int& value, cudaDeviceAttr attribute)
    {
        cudaError_t const error = cudaDeviceGetAttribute(&value, attribute, index);
        device.error = device.error == cudaSuccess ? error : device.error;
    };
    read(major, cudaDevAttrComputeCapabilityMajor);
    read(minor, cudaDevAttrComputeCapabilityMinor);
    read(device.multiprocessors, cudaDevAttrMultiProcessorCount);
    read(device.sharedPerMultiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    read(device.sharedPerBlock, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    device.capability = 10 * major + minor;
    return device;
}

// A thread keeps what it read of its device until it calls for another one; what could not be read is read again.
Device currentDevice()
{
    constexpr int kNone = -1;
    thread_local int kept = kNone;
    thread_local Device device;
    int index = 0;
    cudaError_t const error = cudaGetDevice(&index);
    if (error != cudaSuccess)
    {
        return {error, 0, 0, 0, 0};
    }
    if (index != kept)
    {
        device = readDevice(index);
        kept = device.error == cudaSuccess ? index : kNone;
    }
    return device;
}

int64_t divideUp64(int64_t x, int64_t y)
{
    return (x + y - 1) / y;
}

size_t elementBytes(int32_t type)
{
    return type == kMEMVP_FLOAT32 ? 4 : 2;
}

// The three regions of the workspace, as offsets. Sizes are bounds that hold for every smaller batch and number of
// tokens too, with one visual memory for all samples or one for each.
struct Layout
{
    size_t scores; // 0
    size_t activations;
    size_t partial;
    size_t total;
};

Layout workspaceLayout(MemvpVisualMemory const& p)
{
    auto const aligned = [](int64_t bytes) { return static_cast<size_t>(divideUp64(bytes, 256) * 256); };
    int64_t const tokens = static_cast<int64_t>(p.batch) * p.tokens;
    int64_t const decoded = static_cast<int64_t>(p.batch) * std::min(p.tokens, kDecodeTokens);
    // splits * tokens, where splits <= kMaxBlocks / (tiles of tokens * tiles of rows); or 1, which only decoding stores
    int64_t const splitTokens = kMaxBlocks * kTile / divideUp(p.tableRows, kTile) + 1;
    int64_t const scores = std::min(kMaxScoreSplits * tokens, std::max(decoded, splitTokens)) * p.tableRows;
    // splits * tokens, where splits <= kMaxBlocks / (unsplit blocks, of up to 4 tokens), or as kMaxRowsPerSplit asks
    int64_t const partial = std::max(std::min(kMaxRowSplits * decoded, 4 * kMaxBlocks),
                                decoded * divideUp64(p.tableRows, kMaxRowsPerSplit))
        * p.width;
    Layout layout{};
    layout.activations = aligned(scores * static_cast<int64_t>(sizeof(float)));
    layout.partial = layout.activations
        + aligned(tokens * activationStride(p.tableRows) * static_cast<int64_t>(elementBytes(p.type)));
    layout.total = layout.partial + aligned(partial * static_cast<int64_t>(sizeof(float)));
    return layout;
}

// One call. A visual memory that all samples share makes them one sample.
template <typename T>
struct Call
{
    int batch, tokens, width, rows, tableRows, activation;
    float scale;
    T const* hidden;
    T const* ffn;
    T const* visual;
    T const* keys;
    T const* values;
    T* output;
    float* scores;
    T* activations;
    float* partial;
    bool aligned; // whole 16-byte vectors everywhere
    Device device;
    cudaStream_t stream;

    int allTokens() const
    {
        return batch * tokens;
    }
};

template <typename T>
int scoreSplits(Call<T> const& c, int batch, int tokens)
{
    int64_t const tiles = static_cast<int64_t>(batch) * divideUp(tokens, kTile) * divideUp(c.tableRows, kTile);
    int64_t const blocks = std::min<int64_t>(2 * c.device.multiprocessors, kMaxBlocks);
    int64_t const most = std::min(kMaxScoreSplits, divideUp64(c.width, kMinSplitWidth));
    return static_cast<int>(std::max<int64_t>(1, std::min(blocks / tiles, most)));
}

cudaError_t launchScores(Scores<float> const& scores, Call<float> const& c)
{
    return generalScores(scores, c.stream);
}

cudaError_t launchValues(Values<float> const& values, Call<float> const& c)
{
    return generalValues(values, c.stream);
}

template <typename T>
bool onTensorCores(Call<T> const& c)
{
    return c.aligned && c.device.capability >= (std::is_same<T, Half>::value ? 75 : 80);
}

template <typename T>
cudaError_t launchScores(Scores<T> const& scores, Call<T> const& c)
{
    return onTensorCores(c) ? tensorCoreScores(scores, c.stream) : generalScores(scores, c.stream);
}

template <typename T>
cudaError_t launchValues(Values<T> const& values, Call<T> const& c)
{
    return onTensorCores(c) ? tensorCoreValues(values, c.stream) : generalValues(values, c.stream);
}

template <typename T>
cudaError_t products(Call<T> const& c)
{
    int const splits = scoreSplits(c, c.batch, c.tokens);
    Scores<T> const scores{c.hidden, c.keys, c.visual, splits > 1 ? c.scores : nullptr, c.activations, c.batch,
        c.tokens, c.width, c.rows, c.tableRows, splits, c.activation};
    Values<T> const values{c.activations, c.values, c.visual, nullptr, c.ffn, c.output, c.batch, c.tokens, c.width,
        c.rows, c.tableRows, 0, c.scale};
    cudaError_t error = launchScores(scores, c);
    if (error == cudaSuccess && splits > 1)
    {
        error = activateSums(scores, c.stream);
    }
    return error == cudaSuccess ? launchValues(values, c) : error;
}

// How the row pass would go about it; stages = 0 where it cannot.
struct PassPlan
{
    int stages;
    int splits;
    int rowsPerSplit;
};

template <typename T>
PassPlan planPass(Call<T> const& c, bool tables)
{
    PassPlan plan{};
    int const rows = tables ? c.tableRows : c.rows;
    DecodeForm const form = decodeForm(c.width, c.tokens, sizeof(T), tables);
    if (!c.aligned || form.vectors == 0 || rows == 0 || c.tokens > std::min(kDecodeTokens, 2 * form.tokens))
    {
        return plan;
    }
    int64_t const other = form.otherBytes(std::min<int64_t>(rows + form.rows, kMaxRowsPerSplit));
    auto const stagesIn = [&](int64_t bytes)
    { return static_cast<int>(std::min<int64_t>(4, (bytes - other) / static_cast<int64_t>(form.stageBytes))); };
    constexpr int kReserved = 1024; // of a multiprocessor's shared memory, for each block
    int perMultiprocessor = 2;
    plan.stages = stagesIn(std::min(c.device.sharedPerMultiprocessor / 2 - kReserved, c.device.sharedPerBlock));
    if (plan.stages < 2)
    {
        perMultiprocessor = 1;
        plan.stages = stagesIn(c.device.sharedPerBlock);
    }
    if (plan.stages < 2)
    {
        return {};
    }
    int64_t const blocks = std::min<int64_t>(perMultiprocessor * c.device.multiprocessors, kMaxBlocks);
    int64_t const unsplit = static_cast<int64_t>(c.batch) * divideUp(c.tokens, form.tokens);
    int64_t const tiles = divideUp(rows, form.rows);
    int64_t const worthIt = std::max(c.device.multiprocessors / unsplit, tiles / kMinTilesPerSplit);
    int64_t const wanted = std::max(std::min({blocks / unsplit, worthIt, kMaxRowSplits, tiles}),
        std::max<int64_t>(1, divideUp64(rows, kMaxRowsPerSplit)));
    int64_t const tilesPerSplit = divideUp64(tiles, wanted);
    plan.rowsPerSplit = static_cast<int>(tilesPerSplit) * form.rows;
    plan.splits = static_cast<int>(divideUp64(tiles, tilesPerSplit));
    return plan;
}

template <typename T>
cudaError_t decodeFused(Call<T> const& c, PassPlan const& plan)
{
    RowPass<T> const pass{c.hidden, c.visual, c.keys, c.values, nullptr, nullptr, c.partial, c.batch, c.tokens, c.width,
        c.rows, c.tableRows, 0, plan.splits, plan.rowsPerSplit, plan.stages, c.activation};
    Finish<T> const end{
        c.partial, c.ffn, c.output, static_cast<int64_t>(c.allTokens()) * c.width, plan.splits, c.scale};
    cudaError_t const error = passRows(pass, c.device.sharedPerBlock, c.stream);
    return error == cudaSuccess ? finish(end, c.stream) : error;
}

// The static halves are products of all tokens with the tables alone.
template <typename T>
cudaError_t decodeSplit(Call<T> const& c, PassPlan const& plan)
{
    int const tokens = c.allTokens();
    int const scoreParts = scoreSplits(c, 1, tokens);
    Scores<T> const scores{
        c.hidden, c.keys, nullptr, c.scores, nullptr, 1, tokens, c.width, 0, c.tableRows, scoreParts, c.activation};
    RowPass<T> const pass{c.hidden, c.visual, nullptr, nullptr, c.scores, c.activations, c.partial, c.batch, c.tokens,
        c.width, c.rows, c.tableRows, scoreParts, plan.splits, plan.rowsPerSplit, plan.stages, c.activation};
    Values<T> const values{c.activations, c.values, nullptr, c.partial, c.ffn, c.output, 1, tokens, c.width, 0,
        c.tableRows, plan.splits, c.scale};
    cudaError_t error = launchScores(scores, c);
    if (error == cudaSuccess)
    {
        error = passRows(pass, c.device.sharedPerBlock, c.stream);
    }
    return error == cudaSuccess ? launchValues(values, c) : error;
}

template <typename T>
cudaError_t enqueue(Call<T> const& c)
{
    if (c.allTokens() <= kFusedTokens)
    {
        PassPlan const plan = planPass(c, true);
        if (plan.stages > 0)
        {
            return decodeFused(c, plan);
        }
    }
    PassPlan const plan = planPass(c, false);
    if (plan.stages > 0)
    {
        return decodeSplit(c, plan);
    }
    return products(c);
}

template <typename T>
cudaError_t run(MemvpVisualMemory const& p, Device const& device, void const* hidden, void const* ffn,
    void const* visual, void const* keyPositions, void const* valuePositions, void* output, void* workspace,
    void* stream)
{
    bool const shared = p.visualBatch == 1 || p.rows == 0;
    Layout const layout = workspaceLayout(p);
    auto* const bytes = static_cast<unsigned char*>(workspace);
    uintptr_t ends = static_cast<uintptr_t>(p.width) * sizeof(T);
    for (void const* pointer : {hidden, ffn, visual, keyPositions, valuePositions, static_cast<void const*>(output)})
    {
        ends |= reinterpret_cast<uintptr_t>(pointer);
    }
    Call<T> const call{shared ? 1 : p.batch, shared ? p.batch * p.tokens : p.tokens, p.width, p.rows, p.tableRows,
        p.activation, p.scale, static_cast<T const*>(hidden), static_cast<T const*>(ffn), static_cast<T const*>(visual),
        static_cast<T const*>(keyPositions), static_cast<T const*>(valuePositions), static_cast<T*>(output),
        reinterpret_cast<float*>(bytes + layout.scores), reinterpret_cast<T*>(bytes + layout.activations),
        reinterpret_cast<float*>(bytes + layout.partial), ends % 16 == 0, device, static_cast<cudaStream_t>(stream)};
    return enqueue(call);
}

thread_local cudaError_t lastError = cudaSuccess;

bool isProblem(MemvpVisualMemory const* p)
{
    return p != nullptr && p->batch >= 1 && p->tokens >= 1 && p->width >= 1 && p->tableRows >= 1 && p->rows >= 0
        && p->rows <= p->tableRows && (p->visualBatch == p->batch || p->visualBatch == 1)
        && p->type >= kMEMVP_FLOAT32 && p->type <= kMEMVP_BFLOAT16 && p->activation >= kMEMVP_RELU
        && p->activation <= kMEMVP_QUICK_GELU && static_cast<int64_t>(p->batch) * p->tokens <= INT32_MAX - kTile;
}

} // namespace
} // namespace memvp

extern "C" size_t memvpVisualMemoryFfnWorkspace(MemvpVisualMemory const* problem)
{
    return memvp::isProblem(problem) ? memvp::workspaceLayout(*problem).total : 0;
}

extern "C" int32_t memvpVisualMemoryFfn(MemvpVisualMemory const* problem, void const* hidden, void const* ffn,
    void const* visual, void const* keyPositions, void const* valuePositions, void* output, void* workspace,
    size_t workspaceSize, void* stream)
{
    if (!memvp::isProblem(problem))
    {
        return kMEMVP_BAD_PROBLEM;
    }
    if (hidden == nullptr || ffn == nullptr || (visual == nullptr && problem->rows > 0) || keyPositions == nullptr
        || valuePositions == nullptr || output == nullptr || workspace == nullptr
        || reinterpret_cast<uintptr_t>(workspace) % 16 != 0)
    {
        return kMEMVP_BAD_POINTER;
    }
    if (workspaceSize < memvp::workspaceLayout(*problem).total)
    {
        return kMEMVP_SMALL_WORKSPACE;
    }
    memvp::Device const device = memvp::currentDevice();
    memvp::lastError = device.error;
    if (device.error != cudaSuccess)
    {
        return kMEMVP_CUDA_ERROR;
    }
    if (device.capability < 75)
    {
        return kMEMVP_UNSUPPORTED_GPU;
    }
    auto const run = problem->type == kMEMVP_FLOAT32 ? memvp::run<float>
        : problem->type == kMEMVP_FLOAT16            ? memvp::run<memvp::Half>
                                                     : memvp::run<memvp::BFloat16>;
    memvp::lastError
        = run(*problem, device, hidden, ffn, visual, keyPositions, valuePositions, output, workspace, stream);
    return memvp::lastError == cudaSuccess ? kMEMVP_SUCCESS : kMEMVP_CUDA_ERROR;
}

extern "C" char const* memvpLastCudaError()
{
    return cudaGetErrorString(memvp::lastError);
}

extern "C" char const* memvpStatusString(int32_t status)
{
    switch (status)
    {
    case kMEMVP_SUCCESS: return "success";
    case kMEMVP_BAD_PROBLEM: return "a size, type or activation that the operator does not define";
    case kMEMVP_BAD_POINTER: return "a tensor or the workspace is null, or the workspace is not aligned to 16 bytes";
    case kMEMVP_SMALL_WORKSPACE: return "the workspace is smaller than the query said";
    case kMEMVP_UNSUPPORTED_GPU: return "no kernel of this library runs on this GPU: it needs sm_75 or newer";
    case kMEMVP_CUDA_ERROR: return "a CUDA call failed; memvpLastCudaError() says why";
    default: return "an unknown status";
    }
}
