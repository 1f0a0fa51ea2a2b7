// The decode path: arguments of its two kernels, the row pass and the finish, and how they are launched.
#ifndef MEMVP_DECODE_CUH
#define MEMVP_DECODE_CUH

#include "primitives.cuh"

namespace memvp
{

// One pass over the rows: visual's [0, v), or with the tables all [0, p), a row's Pk, Z and Pv together.
template <typename T>
struct RowPass
{
    T const* hidden;       // [B,T,d]
    T const* visual;       // Z [B,v,d]
    T const* keys;         // Pk [p,d], or null: then the static half of the scores is in `scores`
    T const* values;       // Pv [p,d], null like keys
    float const* scores;   // [scoreSplits,B,T,p]
    T* activations;        // [B,T,activationStride(p)], for the static half of the values
    float* partial;        // [splits,B,T,d]
    int batch, tokens, width, rows, tableRows;
    int scoreSplits;
    int splits, rowsPerSplit; // a block's rows, a multiple of the form's rows
    int stages;               // of the ring in shared memory, 2 to 4
    int activation;
};

// output = ffn + scale * (sum of partial over the splits)
template <typename T>
struct Finish
{
    float const* partial; // [splits,B,T,d]
    T const* ffn;
    T* output;
    int64_t size; // B T d
    int splits;
    float scale;
};

// The form of the row pass for these sizes.
struct DecodeForm
{
    int vectors; // 16-byte vectors of a row that a thread holds: 1, 2 or 4; 0: d is too large
    int tokens;  // that a block serves in one pass
    int rows;    // of a stage
    int threads;
    size_t stageBytes;
    size_t hiddenBytes;

    size_t otherBytes(int rowsPerSplit) const; // of shared memory besides the stages
};

DecodeForm decodeForm(int width, int tokens, int elementBytes, bool tables);

// d a multiple of 16 bytes, tensors aligned to 16 bytes. `largestShared`: bytes of shared memory a block may ask for.
template <typename T>
cudaError_t passRows(RowPass<T> const& pass, size_t largestShared, cudaStream_t stream);
template <typename T>
cudaError_t finish(Finish<T> const& arguments, cudaStream_t stream);

} // namespace memvp

#endif // MEMVP_DECODE_CUH
