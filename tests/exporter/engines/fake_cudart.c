// The CUDA runtime's calls on host memory: what a caller passes is checked, and a test can look at what it did.
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
static int fail_next = 0, events = 0, streams = 0;
static u64 clock_ticks = 0;

// The next allocation runs out of memory.
void fakeFailNext(void) { fail_next = 1; }
int fakeOpenStreams(void) { return streams; }
int fakeOpenEvents(void) { return events; }

int cudaGetDeviceCount(int* count) { *count = 1; return 0; }
int cudaDriverGetVersion(int* version) { *version = 12080; return 0; }
int cudaRuntimeGetVersion(int* version) { *version = 12060; return 0; }
int cudaSetDevice(int device) { return device == 0 ? 0 : 101; }
int cudaDeviceGetAttribute(int* value, int attribute, int device)
{
    (void)device;
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : attribute == 38 ? 4096 : attribute == 16 ? 58 : -1;
    return *value < 0;
}
int cudaGetDeviceProperties(void* properties, int device)
{
    memset(properties, 0x7f, 1024);
    strcpy((char*)properties, "Fake GPU");
    return device;
}
int cudaMemGetInfo(size_t* available, size_t* total) { *available = 1u << 20; *total = 1u << 21; return 0; }
int cudaMalloc(void** pointer, size_t size)
{
    if (fail_next || size == 0) { fail_next = 0; return 2; }
    *pointer = malloc(size);
    return 0;
}
int cudaFree(void* pointer) { free(pointer); return 0; }
int cudaMemcpyAsync(void* target, void const* source, size_t size, int kind, void* stream)
{
    (void)stream;
    if (kind < 1 || kind > 2) return 21;
    memcpy(target, source, size);
    return 0;
}
int cudaStreamCreate(void** stream) { ++streams; *stream = malloc(1); return 0; }
int cudaStreamDestroy(void* stream) { --streams; free(stream); return 0; }
int cudaStreamSynchronize(void* stream) { (void)stream; return 0; }
int cudaDeviceSynchronize(void) { return 0; }
int cudaEventCreate(u64** event) { ++events; *event = malloc(sizeof(u64)); return 0; }
int cudaEventDestroy(u64* event) { --events; free(event); return 0; }
int cudaEventRecord(u64* event, void* stream) { (void)stream; *event = clock_ticks += 3; return 0; }
int cudaEventSynchronize(u64* event) { return *event == 0; }
int cudaEventElapsedTime(float* milliseconds, u64* start, u64* end) { *milliseconds = (float)(*end - *start) / 2; return 0; }
char const* cudaGetErrorString(int code) { return code == 101 ? "invalid device ordinal" : "something else"; }
