// The two products on tensor cores. A block of four warps makes a tile of 64 x 64 and each warp 32 x 32 of it; operands
// pass through a ring of stages in shared memory. Keys are Pk + Z and values Pv + Z, added in T as the paper's code
// does, in registers: a product with the tables and one with Z would be nearly twice the multiplications.
//
// The activations go from one product to the other through the workspace, 2 p bytes a token, which L2 holds. Kept in
// shared memory, one block would have to make all rows and all columns of its tokens: 8 blocks for 512 tokens.
#include "activation.cuh"
#include "products.cuh"

namespace memvp
{
namespace
{

constexpr int kThreads = 128; // with one block asked for below, or ptxas saves registers and spills
constexpr int kDepth = 32; // of a stage
constexpr int kStages = 3;
// Padding puts eight rows 16 bytes apart modulo the banks, so that loadMatrices has no conflicts.
constexpr int kDepthStride = kDepth + 8;
constexpr int kColumnStride = kTile + 8;

static_assert(kSplitStep % kDepth == 0, "a split of d is whole stages");

template <typename T>
struct ScoresStage
{
    T hidden[kTile][kDepthStride];
    T keys[kTile][kDepthStride];
    T visual[kTile][kDepthStride];
};

template <typename T>
struct ValuesStage
{
    T activations[kTile][kDepthStride];
    T values[kDepth][kColumnStride];
    T visual[kDepth][kColumnStride];
};

// This warp's place in the tile, and this lane's in a fragment of the result: rows `row` and `row + 8`, columns
// `column` and the next.
struct Place
{
    int token = threadIdx.x / 64 * 32;
    int other = threadIdx.x / 32 % 2 * 32;
    int row = threadIdx.x % 32 / 4;
    int column = threadIdx.x % 4 * 2;
};

// Copies a tile [kRows, 8 kVectors] of a matrix: row r from `from + r * stride`, where from column c on valid(r, c)
// values exist, and zeros.
template <int kRows, int kVectors, int kStride, typename T, typename Valid>
__device__ void copyTile(T (&to)[kRows][kStride], T const* from, int64_t stride, Valid valid)
{
    static_assert(kRows * kVectors % kThreads == 0, "every thread copies as much");
#pragma unroll
    for (int round = 0; round < kRows * kVectors / kThreads; ++round)
    {
        int const i = round * kThreads + threadIdx.x;
        int const row = i / kVectors;
        int const column = i % kVectors * 8;
        int const count = min(8, max(0, valid(row, column)));
        // Where nothing is copied the address must still be one that exists.
        copyAsync16(&to[row][column], count > 0 ? from + row * stride + column : from, 2 * count);
    }
}

// The ring: load(stage, step) fills a stage, multiply(stage) uses it.
template <typename Stage, typename Load, typename Multiply>
__device__ void pipeline(int steps, Load load, Multiply multiply)
{
    Stage* const stages = reinterpret_cast<Stage*>(sharedMemory());
    for (int step = 0; step < kStages - 1; ++step)
    {
        if (step < steps)
        {
            load(stages[step], step);
        }
        copyCommit();
    }
    for (int step = 0; step < steps; ++step)
    {
        copyWait<kStages - 2>();
        barrier(); // this step's copies are there for all, and all are done with the stage that is filled next
        int const next = step + kStages - 1;
        if (next < steps)
        {
            load(stages[next % kStages], next);
        }
        copyCommit();
        multiply(stages[step % kStages]);
    }
}

// Fragments of 32 tokens x 16: rows of `tile` from `token`, columns from k.
template <typename T>
__device__ void loadTokens(uint32_t (&a)[2][4], T const (&tile)[kTile][kDepthStride], int token, int k)
{
    int const lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; ++i)
    {
        loadMatrices(a[i], &tile[token + 16 * i + lane % 16][k + lane / 16 * 8]);
    }
}

template <typename T>
__device__ void multiplyFragments(float (&sum)[2][4][4], uint32_t const (&a)[2][4], uint32_t (&b)[2][4])
{
#pragma unroll
    for (int i = 0; i < 2; ++i)
    {
#pragma unroll
        for (int j = 0; j < 4; ++j)
        {
            multiplyAdd<T>(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }
}

template <typename T>
__device__ void addFragments(uint32_t (&b)[4], uint32_t const (&z)[4])
{
#pragma unroll
    for (int i = 0; i < 4; ++i)
    {
        b[i] = addPairs<T>(b[i], z[i]);
    }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) tensorCoreScoresKernel(Scores<T> s)
{
    unsigned block = blockIdx.x;
    int const row0 = kTile * digit(block, divideUp(s.tableRows, kTile));
    int const token0 = kTile * digit(block, divideUp(s.tokens, kTile));
    int const sample = digit(block, s.batch);
    int const split = block;
    int const begin = split * splitWidth(s.width, s.splits);
    int const end = min(s.width, begin + splitWidth(s.width, s.splits));
    bool const visual = row0 < s.rows;

    T const* const hidden = s.hidden + (static_cast<int64_t>(sample) * s.tokens + token0) * s.width;
    T const* const keys = s.keys + static_cast<int64_t>(row0) * s.width;
    T const* const rows = s.visual + (static_cast<int64_t>(sample) * s.rows + row0) * s.width;
    auto const load = [&](ScoresStage<T>& stage, int step)
    {
        int const k0 = begin + step * kDepth;
        auto const within = [&](int rowsLeft)
        { return [=](int row, int column) { return row < rowsLeft ? end - k0 - column : 0; }; };
        copyTile<kTile, kDepth / 8>(stage.hidden, hidden + k0, s.width, within(s.tokens - token0));
        copyTile<kTile, kDepth / 8>(stage.keys, keys + k0, s.width, within(s.tableRows - row0));
        if (visual)
        {
            copyTile<kTile, kDepth / 8>(stage.visual, rows + k0, s.width, within(s.rows - row0));
        }
    };

    Place const place;
    float sum[2][4][4] = {};
    auto const multiply = [&](ScoresStage<T> const& stage)
    {
        int const lane = threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < kDepth; k += 16)
        {
            uint32_t a[2][4];
            uint32_t b[2][4];
            loadTokens(a, stage.hidden, place.token, k);
#pragma unroll
            for (int j = 0; j < 2; ++j)
            {
                int const row = place.other + 16 * j + lane / 16 * 8 + lane % 8;
                int const column = k + lane / 8 % 2 * 8;
                loadMatrices(b[j], &stage.keys[row][column]);
                if (visual)
                {
                    uint32_t z[4];
                    loadMatrices(z, &stage.visual[row][column]);
                    addFragments<T>(b[j], z);
                }
            }
            multiplyFragments<T>(sum, a, b);
        }
    };
    pipeline<ScoresStage<T>>(divideUp(max(0, end - begin), kDepth), load, multiply);

#pragma unroll
    for (int i = 0; i < 32; ++i)
    {
        int const token = token0 + place.token + 16 * (i / 16) + i % 4 / 2 * 8 + place.row;
        int const row = row0 + place.other + 8 * (i / 4 % 4) + place.column + i % 2;
        float const score = sum[i / 16][i / 4 % 4][i % 4];
        if (token < s.tokens && row < s.tableRows)
        {
            int64_t const m = static_cast<int64_t>(sample) * s.tokens + token;
            if (s.sums != nullptr)
            {
                s.sums[(static_cast<int64_t>(split) * s.batch * s.tokens + m) * s.tableRows + row] = score;
            }
            else
            {
                s.activations[m * activationStride(s.tableRows) + row] = fromFloat<T>(activate(score, s.activation));
            }
        }
    }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) tensorCoreValuesKernel(Values<T> s)
{
    unsigned block = blockIdx.x;
    int const column0 = kTile * digit(block, divideUp(s.width, kTile));
    int const token0 = kTile * digit(block, divideUp(s.tokens, kTile));
    int const sample = block;

    int const stride = activationStride(s.tableRows);
    T const* const activations = s.activations + (static_cast<int64_t>(sample) * s.tokens + token0) * stride;
    T const* const values = s.values + column0;
    T const* const rows = s.visual + static_cast<int64_t>(sample) * s.rows * s.width + column0;
    auto const load = [&](ValuesStage<T>& stage, int step)
    {
        int const k0 = step * kDepth;
        auto const within = [&](int rowsLeft)
        { return [=](int row, int column) { return row < rowsLeft ? s.width - column0 - column : 0; }; };
        copyTile<kTile, kDepth / 8>(stage.activations, activations + k0, stride, [=](int token, int row)
            { return token0 + token < s.tokens ? s.tableRows - k0 - row : 0; });
        int64_t const at = static_cast<int64_t>(k0) * s.width;
        copyTile<kDepth, kTile / 8>(stage.values, values + at, s.width, within(s.tableRows - k0));
        if (k0 < s.rows)
        {
            copyTile<kDepth, kTile / 8>(stage.visual, rows + at, s.width, within(s.rows - k0));
        }
    };

    Place const place;
    float sum[2][4][4] = {};
    int k0 = 0;
    auto const multiply = [&](ValuesStage<T> const& stage)
    {
        int const lane = threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < kDepth; k += 16)
        {
            uint32_t a[2][4];
            uint32_t b[2][4];
            loadTokens(a, stage.activations, place.token, k);
#pragma unroll
            for (int j = 0; j < 2; ++j)
            {
                int const row = k + lane % 16;
                int const column = place.other + 16 * j + lane / 16 * 8;
                loadMatricesTransposed(b[j], &stage.values[row][column]);
                if (k0 < s.rows)
                {
                    uint32_t z[4];
                    loadMatricesTransposed(z, &stage.visual[row][column]);
                    addFragments<T>(b[j], z);
                }
            }
            multiplyFragments<T>(sum, a, b);
        }
        k0 += kDepth;
    };
    pipeline<ValuesStage<T>>(divideUp(s.tableRows, kDepth), load, multiply);

    int64_t const all = static_cast<int64_t>(s.batch) * s.tokens * s.width;
#pragma unroll
    for (int i = 0; i < 16; ++i)
    {
        int const token = token0 + place.token + 16 * (i / 8) + i % 2 * 8 + place.row;
        int const column = column0 + place.other + 8 * (i / 2 % 4) + place.column;
        if (token < s.tokens && column < s.width)
        {
            int64_t const at = (static_cast<int64_t>(sample) * s.tokens + token) * s.width + column;
            float x = sum[i / 8][i / 2 % 4][i % 2 * 2];
            float y = sum[i / 8][i / 2 % 4][i % 2 * 2 + 1];
            for (int split = 0; split < s.splits; ++split)
            {
                float2 const part = *reinterpret_cast<float2 const*>(s.sums + split * all + at);
                x += part.x;
                y += part.y;
            }
            alignas(4) T pair[2];
            *reinterpret_cast<uint32_t*>(pair) = *reinterpret_cast<uint32_t const*>(s.ffn + at);
            pair[0] = fromFloat<T>(toFloat(pair[0]) + s.scale * x);
            pair[1] = fromFloat<T>(toFloat(pair[1]) + s.scale * y);
            *reinterpret_cast<uint32_t*>(s.output + at) = *reinterpret_cast<uint32_t*>(pair);
        }
    }
}

} // namespace

template <typename T>
cudaError_t tensorCoreScores(Scores<T> const& s, cudaStream_t stream)
{
    unsigned const blocks = s.splits * s.batch * divideUp(s.tokens, kTile) * divideUp(s.tableRows, kTile);
    return launch(tensorCoreScoresKernel<T>, blocks, kThreads, kStages * sizeof(ScoresStage<T>), stream, s);
}

template <typename T>
cudaError_t tensorCoreValues(Values<T> const& s, cudaStream_t stream)
{
    unsigned const blocks = s.batch * divideUp(s.tokens, kTile) * divideUp(s.width, kTile);
    return launch(tensorCoreValuesKernel<T>, blocks, kThreads, kStages * sizeof(ValuesStage<T>), stream, s);
}

static_assert(kStages * sizeof(ScoresStage<Half>) <= 48 << 10, "more shared memory must be asked for");
static_assert(kStages * sizeof(ValuesStage<Half>) <= 48 << 10, "more shared memory must be asked for");

#define MEMVP_INSTANTIATE(T)                                                                                           \
    template cudaError_t tensorCoreScores<T>(Scores<T> const&, cudaStream_t);                                          \
    template cudaError_t tensorCoreValues<T>(Values<T> const&, cudaStream_t);
MEMVP_INSTANTIATE(Half)
MEMVP_INSTANTIATE(BFloat16)
#undef MEMVP_INSTANTIATE

} // namespace memvp
