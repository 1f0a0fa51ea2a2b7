// What the kernels ask of the hardware, and nothing else: with MEMVP_EMULATE the same names come from a header that
// carries them out on the host, so that the kernels' tests need no GPU.
#ifndef MEMVP_PRIMITIVES_CUH
#define MEMVP_PRIMITIVES_CUH

#include <cstddef>
#include <cstdint>

#ifdef MEMVP_EMULATE
#include "primitives_on_host.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace memvp
{

using Half = __half;
using BFloat16 = __nv_bfloat16;

// One kernel with one argument struct. Returns what CUDA says of this launch.
template <typename Arguments>
cudaError_t launch(void (*kernel)(Arguments), unsigned blocks, unsigned threads, size_t sharedBytes,
    cudaStream_t stream, Arguments const& arguments)
{
    void* parameters[] = {const_cast<Arguments*>(&arguments)};
    return cudaLaunchKernel(kernel, dim3(blocks), dim3(threads), parameters, sharedBytes, stream);
}

__device__ inline unsigned char* sharedMemory()
{
    extern __shared__ __align__(16) unsigned char memory[];
    return memory;
}

__device__ inline void barrier()
{
    __syncthreads();
}

__device__ inline float shuffleXor(float value, int mask)
{
    return __shfl_xor_sync(0xffffffffU, value, mask);
}

__device__ inline float toFloat(float value)
{
    return value;
}

__device__ inline float toFloat(Half value)
{
    return __half2float(value);
}

__device__ inline float toFloat(BFloat16 value)
{
    return __bfloat162float(value);
}

template <typename T>
__device__ T fromFloat(float value);

template <>
__device__ inline float fromFloat<float>(float value)
{
    return value;
}

template <>
__device__ inline Half fromFloat<Half>(float value)
{
    return __float2half_rn(value);
}

template <>
__device__ inline BFloat16 fromFloat<BFloat16>(float value)
{
    return __float2bfloat16_rn(value);
}

// Copies 16 bytes to shared memory, or the first `bytes` of them and then zeros. Both addresses are aligned to 16; a
// thread sees its own copies after copyWait, the block sees them after a barrier that follows.
__device__ inline void copyAsync16(void* shared, void const* global, int bytes)
{
#if __CUDA_ARCH__ >= 800
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global), "r"(bytes) : "memory");
#else
    uint4 copy = make_uint4(0, 0, 0, 0);
    if (bytes == 16)
    {
        copy = *static_cast<uint4 const*>(global);
    }
    *static_cast<uint4*>(shared) = copy;
    for (int i = 0; bytes < 16 && i < bytes / 2; ++i)
    {
        static_cast<uint16_t*>(shared)[i] = static_cast<uint16_t const*>(global)[i];
    }
#endif
}

// Closes a group of copies.
__device__ inline void copyCommit()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until at most kPending of this thread's latest groups are under way.
template <int kPending>
__device__ inline void copyWait()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

// Four 8x8 matrices of 16-bit values; lane 8 i + r names row r of matrix i. Lane l gets, of matrix i, in r[i] the
// columns 2 (l % 4) and the next of row l / 4.
__device__ inline void loadMatrices(uint32_t (&r)[4], void const* row)
{
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same of the transposed matrices.
__device__ inline void loadMatricesTransposed(uint32_t (&r)[4], void const* row)
{
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// c [16,8] += a [16,16] b [16,8] by the warp, in the fragment layout of mma.m16n8k16.
template <typename T>
__device__ void multiplyAdd(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline void multiplyAdd<Half>(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

template <>
__device__ inline void multiplyAdd<BFloat16>(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    __trap(); // sm_75 has no bf16 in its tensor cores: the launcher takes the general path
#endif
}

// Two 16-bit values each: x + y, rounded once.
template <typename T>
__device__ uint32_t addPairs(uint32_t x, uint32_t y);

template <>
__device__ inline uint32_t addPairs<Half>(uint32_t x, uint32_t y)
{
    __half2 const sum = __hadd2(reinterpret_cast<__half2&>(x), reinterpret_cast<__half2&>(y));
    return reinterpret_cast<uint32_t const&>(sum);
}

template <>
__device__ inline uint32_t addPairs<BFloat16>(uint32_t x, uint32_t y)
{
#if __CUDA_ARCH__ >= 800
    __nv_bfloat162 const sum = __hadd2(reinterpret_cast<__nv_bfloat162&>(x), reinterpret_cast<__nv_bfloat162&>(y));
    return reinterpret_cast<uint32_t const&>(sum);
#else
    __trap();
    return x + y;
#endif
}

} // namespace memvp

#endif // MEMVP_EMULATE

namespace memvp
{

// 16 bytes of T, and how they become float32.
template <typename T>
constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));

template <typename T>
__device__ inline void loadVector(float (&to)[kPerVector<T>], T const* from)
{
    alignas(16) T raw[kPerVector<T>];
    *reinterpret_cast<uint4*>(raw) = *reinterpret_cast<uint4 const*>(from);
#pragma unroll
    for (int i = 0; i < kPerVector<T>; ++i)
    {
        to[i] = toFloat(raw[i]);
    }
}

// The next digit of a mixed-radix block number: one-dimensional grids have no limit that a batch could meet.
__device__ inline int digit(unsigned& number, unsigned radix)
{
    unsigned const rest = number / radix;
    int const value = static_cast<int>(number - rest * radix);
    number = rest;
    return value;
}

} // namespace memvp

#endif // MEMVP_PRIMITIVES_CUH
