// The general path: any sizes, any alignment, float32 arithmetic outside the tensor cores. A block makes a tile of
// 64 x 64, a thread 4 x 4 of it.
#include "activation.cuh"
#include "products.cuh"

namespace memvp
{
namespace
{

constexpr int kThreads = 256;
constexpr int kDepth = 16; // of the tiles in shared memory
constexpr int kStride = kTile + 4;

// sum[i][j] += sum over k in [begin, end) of left(16 i + ty, k) * right(16 j + tx, k), with tx = thread % 16 and ty =
// thread / 16. kAlongColumns: neighbouring threads read neighbouring columns of `right`, else neighbouring k.
template <bool kAlongColumns, typename Left, typename Right>
__device__ void multiplyTile(float (&sum)[4][4], int begin, int end, Left left, Right right)
{
    float* const a = reinterpret_cast<float*>(sharedMemory());
    float* const b = a + kDepth * kStride;
    int const tx = threadIdx.x % 16;
    int const ty = threadIdx.x / 16;
    for (int k0 = begin; k0 < end; k0 += kDepth)
    {
        for (int i = threadIdx.x; i < kDepth * kTile; i += kThreads)
        {
            int const k = i % kDepth;
            int const m = i / kDepth;
            a[k * kStride + m] = k0 + k < end ? left(m, k0 + k) : 0.F;
            int const n = kAlongColumns ? i % kTile : m;
            int const kn = kAlongColumns ? i / kTile : k;
            b[kn * kStride + n] = k0 + kn < end ? right(n, k0 + kn) : 0.F;
        }
        barrier();
#pragma unroll
        for (int k = 0; k < kDepth; ++k)
        {
#pragma unroll
            for (int i = 0; i < 4; ++i)
            {
#pragma unroll
                for (int j = 0; j < 4; ++j)
                {
                    sum[i][j] += a[k * kStride + 16 * i + ty] * b[k * kStride + 16 * j + tx];
                }
            }
        }
        barrier();
    }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) generalScoresKernel(Scores<T> s)
{
    unsigned block = blockIdx.x;
    int const row0 = kTile * digit(block, divideUp(s.tableRows, kTile));
    int const token0 = kTile * digit(block, divideUp(s.tokens, kTile));
    int const sample = digit(block, s.batch);
    int const split = block;

    T const* const hidden = s.hidden + static_cast<int64_t>(sample) * s.tokens * s.width;
    T const* const visual = s.visual + static_cast<int64_t>(sample) * s.rows * s.width;
    auto const left = [&](int m, int k)
    { return token0 + m < s.tokens ? toFloat(hidden[static_cast<int64_t>(token0 + m) * s.width + k]) : 0.F; };
    auto const right = [&](int n, int k)
    {
        int64_t const at = static_cast<int64_t>(row0 + n) * s.width + k;
        float const key = row0 + n < s.tableRows ? toFloat(s.keys[at]) : 0.F;
        return row0 + n < s.rows ? key + toFloat(visual[at]) : key;
    };
    int const begin = split * splitWidth(s.width, s.splits);
    int const end = min(s.width, begin + splitWidth(s.width, s.splits));
    float sum[4][4] = {};
    multiplyTile<false>(sum, begin, end, left, right);

#pragma unroll
    for (int i = 0; i < 16; ++i)
    {
        int const token = token0 + 16 * (i / 4) + threadIdx.x / 16;
        int const row = row0 + 16 * (i % 4) + threadIdx.x % 16;
        if (token < s.tokens && row < s.tableRows)
        {
            int64_t const m = static_cast<int64_t>(sample) * s.tokens + token;
            if (s.sums != nullptr)
            {
                int64_t const all = static_cast<int64_t>(s.batch) * s.tokens;
                s.sums[(split * all + m) * s.tableRows + row] = sum[i / 4][i % 4];
            }
            else
            {
                s.activations[m * activationStride(s.tableRows) + row]
                    = fromFloat<T>(activate(sum[i / 4][i % 4], s.activation));
            }
        }
    }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) generalValuesKernel(Values<T> s)
{
    unsigned block = blockIdx.x;
    int const column0 = kTile * digit(block, divideUp(s.width, kTile));
    int const token0 = kTile * digit(block, divideUp(s.tokens, kTile));
    int const sample = block;

    T const* const activations = s.activations
        + static_cast<int64_t>(sample) * s.tokens * activationStride(s.tableRows);
    T const* const visual = s.visual + static_cast<int64_t>(sample) * s.rows * s.width;
    auto const left = [&](int m, int k)
    {
        int64_t const at = static_cast<int64_t>(token0 + m) * activationStride(s.tableRows) + k;
        return token0 + m < s.tokens ? toFloat(activations[at]) : 0.F;
    };
    auto const right = [&](int n, int k)
    {
        int64_t const at = static_cast<int64_t>(k) * s.width + column0 + n;
        float const value = column0 + n < s.width ? toFloat(s.values[at]) : 0.F;
        return k < s.rows && column0 + n < s.width ? value + toFloat(visual[at]) : value;
    };
    float sum[4][4] = {};
    multiplyTile<true>(sum, 0, s.tableRows, left, right);

#pragma unroll
    for (int i = 0; i < 16; ++i)
    {
        int const token = token0 + 16 * (i / 4) + threadIdx.x / 16;
        int const column = column0 + 16 * (i % 4) + threadIdx.x % 16;
        if (token < s.tokens && column < s.width)
        {
            int64_t const all = static_cast<int64_t>(s.batch) * s.tokens * s.width;
            int64_t const at = (static_cast<int64_t>(sample) * s.tokens + token) * s.width + column;
            float total = sum[i / 4][i % 4];
            for (int split = 0; split < s.splits; ++split)
            {
                total += s.sums[split * all + at];
            }
            s.output[at] = fromFloat<T>(toFloat(s.ffn[at]) + s.scale * total);
        }
    }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) activateSumsKernel(Scores<T> s)
{
    int64_t const all = static_cast<int64_t>(s.batch) * s.tokens * s.tableRows;
    int64_t const at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (at < all)
    {
        float sum = 0.F;
        for (int split = 0; split < s.splits; ++split)
        {
            sum += s.sums[split * all + at];
        }
        int64_t const m = at / s.tableRows;
        s.activations[m * activationStride(s.tableRows) + at % s.tableRows]
            = fromFloat<T>(activate(sum, s.activation));
    }
}

constexpr size_t kSharedBytes = 2 * kDepth * kStride * sizeof(float);

} // namespace

template <typename T>
cudaError_t generalScores(Scores<T> const& s, cudaStream_t stream)
{
    unsigned const blocks = s.splits * s.batch * divideUp(s.tokens, kTile) * divideUp(s.tableRows, kTile);
    return launch(generalScoresKernel<T>, blocks, kThreads, kSharedBytes, stream, s);
}

template <typename T>
cudaError_t generalValues(Values<T> const& s, cudaStream_t stream)
{
    unsigned const blocks = s.batch * divideUp(s.tokens, kTile) * divideUp(s.width, kTile);
    return launch(generalValuesKernel<T>, blocks, kThreads, kSharedBytes, stream, s);
}

template <typename T>
cudaError_t activateSums(Scores<T> const& s, cudaStream_t stream)
{
    int64_t const all = static_cast<int64_t>(s.batch) * s.tokens * s.tableRows;
    unsigned const blocks = static_cast<unsigned>((all + kThreads - 1) / kThreads);
    return launch(activateSumsKernel<T>, blocks, kThreads, 0, stream, s);
}

#define MEMVP_INSTANTIATE(T)                                                                                           \
    template cudaError_t generalScores<T>(Scores<T> const&, cudaStream_t);                                             \
    template cudaError_t generalValues<T>(Values<T> const&, cudaStream_t);                                             \
    template cudaError_t activateSums<T>(Scores<T> const&, cudaStream_t);
MEMVP_INSTANTIATE(float)
MEMVP_INSTANTIATE(Half)
MEMVP_INSTANTIATE(BFloat16)
#undef MEMVP_INSTANTIATE

} // namespace memvp
