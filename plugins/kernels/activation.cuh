#ifndef MEMVP_ACTIVATION_CUH
#define MEMVP_ACTIVATION_CUH

#include "memvp_kernels.h"
#include "primitives.cuh"

namespace memvp
{

// Written so that large negative scores give -0 instead of inf * 0, and NaN stays NaN.
__device__ inline float activate(float x, int activation)
{
    switch (activation)
    {
    case kMEMVP_RELU: return x < 0.F ? 0.F : x;
    case kMEMVP_SILU: return x / (1.F + expf(-x));
    case kMEMVP_GELU: return 0.5F * x * erfcf(-0.70710678F * x);
    default: return x / (1.F + expf(-1.702F * x));
    }
}

} // namespace memvp

#endif // MEMVP_ACTIVATION_CUH
