// The two products of the memory, S = h (Pk + Z)^T and y = ffn + scale (a (Pv + Z) + partial sums): their arguments,
// shared by the tensor-core form and the general one. rows = 0 leaves Z out: that is a static half alone.
#ifndef MEMVP_PRODUCTS_CUH
#define MEMVP_PRODUCTS_CUH

#include "primitives.cuh"

namespace memvp
{

template <typename T>
struct Scores
{
    T const* hidden; // [B,T,d]
    T const* keys;   // Pk [p,d]
    T const* visual; // Z [B,v,d]
    float* sums;     // [splits,B,T,p], each split over its part of d; or null, and
    T* activations;  // [B,T,activationStride(p)], the activation applied; splits is 1
    int batch, tokens, width, rows, tableRows;
    int splits;
    int activation;
};

template <typename T>
struct Values
{
    T const* activations; // [B,T,activationStride(p)]
    T const* values;      // Pv [p,d]
    T const* visual;      // Z [B,v,d]
    float const* sums;    // [splits,B,T,d], added before the scale
    T const* ffn;
    T* output;
    int batch, tokens, width, rows, tableRows;
    int splits;
    float scale;
};

// Rows of activations begin at multiples of 16 bytes.
inline __host__ __device__ int activationStride(int tableRows)
{
    return (tableRows + 7) / 8 * 8;
}

inline __host__ __device__ int divideUp(int x, int y)
{
    return (x + y - 1) / y;
}

constexpr int kTile = 64;     // tokens, rows and columns of a block's tile, in both forms
constexpr int kSplitStep = 32; // splits of d begin at multiples of this

inline __host__ __device__ int splitWidth(int width, int splits)
{
    return divideUp(divideUp(width, splits), kSplitStep) * kSplitStep;
}

// Any sizes and alignment.
template <typename T>
cudaError_t generalScores(Scores<T> const& scores, cudaStream_t stream);
template <typename T>
cudaError_t generalValues(Values<T> const& values, cudaStream_t stream);

// Half and BFloat16, d a multiple of 8, tensors aligned to 16 bytes.
template <typename T>
cudaError_t tensorCoreScores(Scores<T> const& scores, cudaStream_t stream);
template <typename T>
cudaError_t tensorCoreValues(Values<T> const& values, cudaStream_t stream);

// scores.activations = activation of the sums of scores.sums over the splits.
template <typename T>
cudaError_t activateSums(Scores<T> const& scores, cudaStream_t stream);

} // namespace memvp

#endif // MEMVP_PRODUCTS_CUH
