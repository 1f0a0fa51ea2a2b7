// The kernels' C interface: no TensorRT, no C++ types, nothing allocated and nothing synchronized inside.
//
// Every function only enqueues work on `stream`, so all of them can be captured in a CUDA graph. Pointers are device
// pointers to dense row-major tensors. Results do not depend on timing: sums have a fixed order.
#ifndef MEMVP_KERNELS_H
#define MEMVP_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C"
{
#endif

typedef enum
{
    kMEMVP_FLOAT32 = 0,
    kMEMVP_FLOAT16 = 1,
    kMEMVP_BFLOAT16 = 2,
} MemvpType;

typedef enum
{
    kMEMVP_RELU = 0,
    kMEMVP_SILU = 1,
    kMEMVP_GELU = 2, // with erf
    kMEMVP_QUICK_GELU = 3,
} MemvpActivation;

typedef enum
{
    kMEMVP_SUCCESS = 0,
    kMEMVP_BAD_PROBLEM = 1,     // a size, type or activation that the operator does not define
    kMEMVP_BAD_POINTER = 2,     // null where a tensor or the workspace is needed, or a workspace not aligned to 16
    kMEMVP_SMALL_WORKSPACE = 3, // smaller than the query said
    kMEMVP_UNSUPPORTED_GPU = 4, // no kernel of this library runs there, or not in this type
    kMEMVP_CUDA_ERROR = 5,      // a CUDA call failed; memvpLastCudaError() says why
} MemvpStatus;

// One call of VisualMemoryFFN: output = ffn + scale * (a Pv + a[:, :rows] Z), a = act(h Pk^T + pad(h Z^T)).
typedef struct
{
    int32_t batch;        // B >= 1
    int32_t tokens;       // T >= 1
    int32_t width;        // d >= 1
    int32_t rows;         // v of visual, 0 <= v <= tableRows
    int32_t tableRows;    // p of the position tables
    int32_t visualBatch;  // B, or 1 where one visual memory serves every sample
    int32_t type;         // MemvpType of every tensor; sums are float32
    int32_t activation;   // MemvpActivation
    float scale;
} MemvpVisualMemory;

// Bytes of workspace that memvpVisualMemoryFfn needs for `problem` and for every problem of smaller batch or fewer
// tokens, with a visual memory of its own for each sample or one for all; the same on every GPU. 0: no problem.
size_t memvpVisualMemoryFfnWorkspace(MemvpVisualMemory const* problem);

// hidden, ffn, output [B,T,d]; visual [visualBatch,v,d], null where v is 0; keyPositions, valuePositions [p,d]. output
// may be ffn itself. Contents of the workspace do not matter. Returns a MemvpStatus.
int32_t memvpVisualMemoryFfn(MemvpVisualMemory const* problem, void const* hidden, void const* ffn, void const* visual,
    void const* keyPositions, void const* valuePositions, void* output, void* workspace, size_t workspaceSize,
    void* stream);

// What a status means, for a message.
char const* memvpStatusString(int32_t status);

// What CUDA said of this thread's latest call: the reason of a kMEMVP_CUDA_ERROR. A caller's cudaGetLastError() cannot
// tell, because the library has a CUDA runtime of its own.
char const* memvpLastCudaError(void);

#ifdef __cplusplus
}
#endif

#endif // MEMVP_KERNELS_H
