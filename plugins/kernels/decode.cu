// The decode path: every row of `visual` is read from memory once and serves keys and then values while it is on chip.
//
// A block takes one sample, a range of rows and up to four tokens. Rows pass through a ring of stages in shared memory;
// a thread copies, and later reads, only its own columns of them, so that the ring needs no barriers: only the scores,
// which are sums over all columns, are exchanged. The block's part of the result stays in registers until its rows are
// through and is then written once; the sum over the blocks of a sample is made in fixed order by the kernel that
// follows.
#include "activation.cuh"
#include "decode.cuh"
#include "products.cuh"

#include <atomic>

namespace memvp
{
namespace
{

constexpr int kThreads = 256; // with one block asked for below, or ptxas saves registers and spills
constexpr int kWarps = kThreads / 32;
constexpr int kTokens = 4;

inline __host__ __device__ constexpr int rowsOf(int vectors, bool tables)
{
    return (vectors == 1 ? 8 : 4) / (tables ? 2 : 1);
}

// Sums of kCount values over the lanes of a warp. Halves of the values change sides with the lanes, so that it takes
// about kCount + 5 shuffles and not 5 kCount. Lane l returns the sum of values[l / (32 / kCount)].
template <int kCount, int kMask = 16>
__device__ float warpSums(float const (&values)[kCount])
{
    static_assert(kCount % 2 == 0 || kCount == 1, "a power of two");
    if constexpr (kMask == 0)
    {
        return values[0];
    }
    else if constexpr (kCount == 1)
    {
        float const sum[1] = {values[0] + shuffleXor(values[0], kMask)};
        return warpSums<1, kMask / 2>(sum);
    }
    else
    {
        bool const upper = (threadIdx.x & kMask) != 0;
        float sums[kCount / 2];
#pragma unroll
        for (int i = 0; i < kCount / 2; ++i)
        {
            float const given = shuffleXor(upper ? values[i] : values[i + kCount / 2], kMask);
            sums[i] = (upper ? values[i + kCount / 2] : values[i]) + given;
        }
        return warpSums<kCount / 2, kMask / 2>(sums);
    }
}

__device__ inline void waitAllBut(int groups)
{
    switch (groups)
    {
    case 1: return copyWait<1>();
    case 2: return copyWait<2>();
    default: return copyWait<0>();
    }
}

// A vector of Z, or of Z + Pk or Z + Pv, added in float32.
template <bool kTables, typename T>
__device__ void loadRow(float (&to)[kPerVector<T>], T const* visual, T const* table)
{
    loadVector(to, visual);
    if (kTables)
    {
        float position[kPerVector<T>];
        loadVector(position, table);
#pragma unroll
        for (int e = 0; e < kPerVector<T>; ++e)
        {
            to[e] += position[e];
        }
    }
}

template <typename T>
__device__ float staticScore(RowPass<T> const& pass, int64_t m, int row)
{
    int64_t const all = static_cast<int64_t>(pass.batch) * pass.tokens;
    float score = 0.F;
#pragma unroll 8
    for (int split = 0; split < pass.scoreSplits; ++split)
    {
        score += pass.scores[(split * all + m) * pass.tableRows + row];
    }
    return score;
}

// A block's share of the pass, and the steps of its work. A tile is the rows of one stage of the ring.
template <typename T, int kVectors, int kTileTokens, bool kTables>
struct Share
{
    static constexpr int kRows = rowsOf(kVectors, kTables);
    static constexpr int kSources = kTables ? 3 : 1; // Z, and Pk and Pv
    static constexpr int kCount = kRows * kTileTokens;
    static constexpr int kWidth = kPerVector<T>;

    using Sums = float[kTileTokens][kVectors][kWidth];

    RowPass<T> const& pass;
    int split, sample;
    int begin, end; // rows
    int tokens;
    int64_t m0;          // the first token, among those of all samples
    T* hidden;           // [kTileTokens][d] in shared memory, as all that follows
    T* ring;             // [stages][kRows][kSources][d]
    float* warpScores;   // [kWarps][kCount]
    float* weights;      // [kRows][kTileTokens]
    float* staticScores; // [rowsPerSplit][kTileTokens]

    __device__ explicit Share(RowPass<T> const& rowPass)
        : pass(rowPass)
    {
        unsigned block = blockIdx.x;
        int const token0 = kTileTokens * digit(block, divideUp(pass.tokens, kTileTokens));
        split = digit(block, pass.splits);
        sample = block;
        begin = split * pass.rowsPerSplit;
        end = min(kTables ? pass.tableRows : pass.rows, begin + pass.rowsPerSplit);
        tokens = min(kTileTokens, pass.tokens - token0);
        m0 = static_cast<int64_t>(sample) * pass.tokens + token0;
        hidden = reinterpret_cast<T*>(sharedMemory());
        ring = hidden + kTileTokens * pass.width;
        warpScores = reinterpret_cast<float*>(stage(0) + pass.stages * stageSize());
        weights = warpScores + kWarps * kCount;
        staticScores = weights + kCount;
    }

    // This thread's columns are vectors threadIdx.x, + blockDim.x, ...
    __device__ static int column(int i)
    {
        return static_cast<int>(threadIdx.x + i * blockDim.x) * kWidth;
    }

    __device__ int64_t stageSize() const
    {
        return static_cast<int64_t>(kRows) * kSources * pass.width;
    }

    __device__ T* stage(int tile) const
    {
        return ring + tile % pass.stages * stageSize();
    }

    __device__ void loadHidden() const
    {
#pragma unroll
        for (int i = 0; i < kVectors; ++i)
        {
            for (int t = 0; t < kTileTokens && column(i) < pass.width; ++t)
            {
                copyAsync16(hidden + t * pass.width + column(i),
                    pass.hidden + (m0 + min(t, tokens - 1)) * pass.width + column(i), t < tokens ? 16 : 0);
            }
        }
    }

    __device__ void loadTile(int tile) const
    {
        T* const to = stage(tile);
        for (int r = 0; r < kRows; ++r)
        {
            int const row = begin + tile * kRows + r;
            int64_t const from = static_cast<int64_t>(row) * pass.width;
            bool const seen = row < min(end, pass.rows);
            T const* const z = pass.visual + (seen ? static_cast<int64_t>(sample) * pass.rows * pass.width + from : 0);
#pragma unroll
            for (int i = 0; i < kVectors; ++i)
            {
                if (column(i) < pass.width)
                {
                    T* const slot = to + r * kSources * pass.width + column(i);
                    // No visual row: zeros, from an address that exists.
                    copyAsync16(slot, seen ? z + column(i) : pass.hidden, seen ? 16 : 0);
                    if (kTables)
                    {
                        int const bytes = row < end ? 16 : 0;
                        int64_t const at = row < end ? from + column(i) : 0;
                        copyAsync16(slot + pass.width, pass.keys + at, bytes);
                        copyAsync16(slot + 2 * pass.width, pass.values + at, bytes);
                    }
                }
            }
        }
    }

    __device__ void loadStaticScores() const
    {
        for (int i = threadIdx.x; i < (end - begin) * kTileTokens; i += blockDim.x)
        {
            int const token = i % kTileTokens;
            staticScores[i] = token < tokens ? staticScore(pass, m0 + token, begin + i / kTileTokens) : 0.F;
        }
    }

    // The scores of a tile, each warp over its own columns.
    __device__ void scoreTile(int tile) const
    {
        float scores[kCount] = {};
        T const* const rows = stage(tile);
#pragma unroll
        for (int i = 0; i < kVectors; ++i)
        {
            if (column(i) < pass.width)
            {
                float h[kTileTokens][kWidth];
#pragma unroll
                for (int t = 0; t < kTileTokens; ++t)
                {
                    loadVector(h[t], hidden + t * pass.width + column(i));
                }
#pragma unroll
                for (int r = 0; r < kRows; ++r)
                {
                    float key[kWidth];
                    T const* const row = rows + r * kSources * pass.width + column(i);
                    loadRow<kTables>(key, row, row + pass.width);
#pragma unroll
                    for (int t = 0; t < kTileTokens; ++t)
                    {
#pragma unroll
                        for (int e = 0; e < kWidth; ++e)
                        {
                            scores[r * kTileTokens + t] += h[t][e] * key[e];
                        }
                    }
                }
            }
        }
        float const warpScore = warpSums(scores);
        int const lane = threadIdx.x % 32;
        if (lane % (32 / kCount) == 0)
        {
            warpScores[threadIdx.x / 32 * kCount + lane / (32 / kCount)] = warpScore;
        }
    }

    // The weights of a tile: its scores over all columns, with the static ones, through the activation.
    __device__ void weighTile(int tile) const
    {
        if (threadIdx.x < kCount)
        {
            int const row = begin + tile * kRows + static_cast<int>(threadIdx.x) / kTileTokens;
            int const token = threadIdx.x % kTileTokens;
            float weight = 0.F;
            if (row < end && token < tokens)
            {
                float score = kTables ? 0.F : staticScores[tile * kCount + threadIdx.x];
                for (int warp = 0; warp < static_cast<int>(blockDim.x) / 32; ++warp)
                {
                    score += warpScores[warp * kCount + threadIdx.x];
                }
                weight = activate(score, pass.activation);
                if (!kTables)
                {
                    pass.activations[(m0 + token) * activationStride(pass.tableRows) + row] = fromFloat<T>(weight);
                }
            }
            weights[threadIdx.x] = weight;
        }
    }

    __device__ void addTile(Sums& sum, int tile) const
    {
        T const* const rows = stage(tile);
#pragma unroll
        for (int i = 0; i < kVectors; ++i)
        {
            if (column(i) < pass.width)
            {
#pragma unroll
                for (int r = 0; r < kRows; ++r)
                {
                    float value[kWidth];
                    T const* const row = rows + r * kSources * pass.width + column(i);
                    loadRow<kTables>(value, row, row + 2 * pass.width);
#pragma unroll
                    for (int t = 0; t < kTileTokens; ++t)
                    {
                        float const weight = weights[r * kTileTokens + t];
#pragma unroll
                        for (int e = 0; e < kWidth; ++e)
                        {
                            sum[t][i][e] += weight * value[e];
                        }
                    }
                }
            }
        }
    }

    __device__ void store(Sums const& sum) const
    {
#pragma unroll
        for (int t = 0; t < kTileTokens; ++t)
        {
#pragma unroll
            for (int i = 0; i < kVectors; ++i)
            {
                if (t < tokens && column(i) < pass.width)
                {
                    int64_t const m = static_cast<int64_t>(split) * pass.batch * pass.tokens + m0 + t;
#pragma unroll
                    for (int e = 0; e < kWidth; e += 4)
                    {
                        *reinterpret_cast<float4*>(pass.partial + m * pass.width + column(i) + e)
                            = make_float4(sum[t][i][e], sum[t][i][e + 1], sum[t][i][e + 2], sum[t][i][e + 3]);
                    }
                }
            }
        }
    }

    // Rows that no picture reaches are in no tile; their activations are the static scores' alone.
    __device__ void activateOtherRows() const
    {
        int const rest = pass.tableRows - pass.rows;
        for (int i = threadIdx.x; i < rest * tokens; i += blockDim.x)
        {
            int64_t const m = m0 + i / rest;
            int const row = pass.rows + i % rest;
            pass.activations[m * activationStride(pass.tableRows) + row]
                = fromFloat<T>(activate(staticScore(pass, m, row), pass.activation));
        }
    }
};

template <typename T, int kVectors, int kTileTokens, bool kTables>
__global__ void __launch_bounds__(kThreads, 1) rowPassKernel(RowPass<T> s)
{
    Share<T, kVectors, kTileTokens, kTables> const share(s);
    int const tiles = divideUp(max(0, share.end - share.begin), share.kRows);
    share.loadHidden();
    for (int tile = 0; tile < s.stages - 1; ++tile)
    {
        if (tile < tiles)
        {
            share.loadTile(tile);
        }
        copyCommit();
    }
    // While the first rows are under way. The barrier before their use is the first tile's.
    if (!kTables)
    {
        share.loadStaticScores();
    }
    float sum[kTileTokens][kVectors][kPerVector<T>] = {};
    for (int tile = 0; tile < tiles; ++tile)
    {
        waitAllBut(s.stages - 2);
        share.scoreTile(tile);
        barrier();
        // After the barrier, so that the reading of the previous tile, whose place this takes, is surely over.
        if (tile + s.stages - 1 < tiles)
        {
            share.loadTile(tile + s.stages - 1);
        }
        copyCommit();
        share.weighTile(tile);
        barrier();
        share.addTile(sum, tile);
    }
    share.store(sum);
    if (!kTables && share.split == 0)
    {
        share.activateOtherRows();
    }
}

constexpr int kFinishColumns = 32;
constexpr int kFinishGroups = 8;

// A warp adds every eighth partial sum of 32 columns; the eight sums are then added in order.
template <typename T>
__global__ void __launch_bounds__(kFinishColumns* kFinishGroups) finishKernel(Finish<T> s)
{
    float* const sums = reinterpret_cast<float*>(sharedMemory()); // [kFinishGroups][kFinishColumns]
    int const lane = threadIdx.x % kFinishColumns;
    int const group = threadIdx.x / kFinishColumns;
    int64_t const at = static_cast<int64_t>(blockIdx.x) * kFinishColumns + lane;
    float sum = 0.F;
    for (int split = group; split < s.splits && at < s.size; split += kFinishGroups)
    {
        sum += s.partial[split * s.size + at];
    }
    sums[threadIdx.x] = sum;
    barrier();
    if (group == 0 && at < s.size)
    {
        for (int other = 1; other < kFinishGroups; ++other)
        {
            sum += sums[other * kFinishColumns + lane];
        }
        s.output[at] = fromFloat<T>(toFloat(s.ffn[at]) + s.scale * sum);
    }
}

template <typename T, int kVectors, int kTileTokens, bool kTables>
cudaError_t launchPass(RowPass<T> const& s, DecodeForm const& form, size_t largestShared, cudaStream_t stream)
{
    auto const kernel = rowPassKernel<T, kVectors, kTileTokens, kTables>;
    // Once for each of the first 64 devices: the call is no part of a captured graph, but need not be made each time.
    static std::atomic<uint64_t> allowed{0};
    int device = 0;
    cudaError_t error = cudaGetDevice(&device);
    uint64_t const bit = device < 64 ? uint64_t{1} << device : 0;
    if (error == cudaSuccess && (allowed.load() & bit) == 0)
    {
        error = cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
            static_cast<int>(largestShared));
        allowed.fetch_or(error == cudaSuccess ? bit : 0);
    }
    unsigned const blocks = s.batch * s.splits * divideUp(s.tokens, kTileTokens);
    size_t const sharedBytes = form.otherBytes(s.rowsPerSplit) + s.stages * form.stageBytes;
    return error == cudaSuccess ? launch(kernel, blocks, form.threads, sharedBytes, stream, s) : error;
}

template <typename T, bool kTables>
cudaError_t passInForm(RowPass<T> const& s, size_t largestShared, cudaStream_t stream)
{
    DecodeForm const form = decodeForm(s.width, s.tokens, sizeof(T), kTables);
    switch (form.vectors * 10 + form.tokens)
    {
    case 11: return launchPass<T, 1, 1, kTables>(s, form, largestShared, stream);
    case 14: return launchPass<T, 1, kTokens, kTables>(s, form, largestShared, stream);
    case 21: return launchPass<T, 2, 1, kTables>(s, form, largestShared, stream);
    case 24: return launchPass<T, 2, kTokens, kTables>(s, form, largestShared, stream);
    case 41: return launchPass<T, 4, 1, kTables>(s, form, largestShared, stream);
    default: return cudaErrorInvalidValue;
    }
}

} // namespace

DecodeForm decodeForm(int width, int tokens, int elementBytes, bool tables)
{
    DecodeForm form{};
    int const vectors = divideUp(width * elementBytes, 16);
    if (vectors > 4 * kThreads)
    {
        return form;
    }
    form.threads = vectors < kThreads ? divideUp(vectors, 32) * 32 : kThreads;
    form.vectors = vectors <= kThreads ? 1 : vectors <= 2 * kThreads ? 2 : 4;
    // Four vectors of four tokens would be more sums than a thread has registers.
    form.tokens = tokens == 1 || form.vectors == 4 ? 1 : kTokens;
    form.rows = rowsOf(form.vectors, tables);
    size_t const rowBytes = static_cast<size_t>(width) * elementBytes;
    form.stageBytes = rowBytes * form.rows * (tables ? 3 : 1);
    form.hiddenBytes = rowBytes * form.tokens;
    return form;
}

size_t DecodeForm::otherBytes(int rowsPerSplit) const
{
    return hiddenBytes + ((kWarps + 1) * rows + rowsPerSplit) * tokens * sizeof(float);
}

template <typename T>
cudaError_t passRows(RowPass<T> const& s, size_t largestShared, cudaStream_t stream)
{
    return s.keys != nullptr ? passInForm<T, true>(s, largestShared, stream)
                             : passInForm<T, false>(s, largestShared, stream);
}

template <typename T>
cudaError_t finish(Finish<T> const& s, cudaStream_t stream)
{
    unsigned const blocks = static_cast<unsigned>((s.size + kFinishColumns - 1) / kFinishColumns);
    unsigned const threads = kFinishColumns * kFinishGroups;
    return launch(finishKernel<T>, blocks, threads, threads * sizeof(float), stream, s);
}

#define MEMVP_INSTANTIATE(T)                                                                                           \
    template cudaError_t passRows<T>(RowPass<T> const&, size_t, cudaStream_t);                                         \
    template cudaError_t finish<T>(Finish<T> const&, cudaStream_t);
MEMVP_INSTANTIATE(float)
MEMVP_INSTANTIATE(Half)
MEMVP_INSTANTIATE(BFloat16)
#undef MEMVP_INSTANTIATE

} // namespace memvp
