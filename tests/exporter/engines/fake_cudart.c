// The CUDA runtime's calls on host memory: what a caller passes is checked, and a test can look at what it did.
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
static int fail_next = 0, events = 0, streams = 0, graphs = 0, refused = 0, forgotten = 0;
static u64 clock_ticks = 0;

// The next allocation runs out of memory.
void fakeFailNext(void) { fail_next = 1; }
int fakeOpenStreams(void) { return streams; }
int fakeOpenEvents(void) { return events; }
// Graphs and what was made ready of them.
int fakeOpenGraphs(void) { return graphs; }
// How often a failure was taken from the thread, which keeps it for whoever asks next.
int fakeForgotten(void) { return forgotten; }
int cudaGetLastError(void) { ++forgotten; return 0; }
// Nothing can be captured from now on.
void fakeRefuseCaptures(void) { refused = 1; }

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
// Work on a stream: rows that are copied, or where there is no source set to 0. It is done at once, or kept while the
// stream is captured.
typedef struct { char* target; char const* source; size_t to_pitch, pitch, width, rows; } work;
typedef struct { work parts[8]; int count; } graph;
static graph* capturing = NULL;
static void do_work(work const* w)
{
    for (size_t row = 0; row < w->rows; ++row)
        if (w->source) memcpy(w->target + row * w->to_pitch, w->source + row * w->pitch, w->width);
        else memset(w->target + row * w->to_pitch, 0, w->width);
}
static int put(work w)
{
    if (capturing) capturing->parts[capturing->count++] = w;
    else do_work(&w);
    return 0;
}
int cudaMemcpyAsync(void* target, void const* source, size_t size, int kind, void* stream)
{
    (void)stream;
    if (kind < 1 || kind > 2) return 21;
    return put((work){target, source, size, size, size, 1});
}
int cudaMemcpy2DAsync(
    void* target, size_t to_pitch, void const* source, size_t pitch, size_t width, size_t rows, int kind, void* stream)
{
    (void)stream;
    if (kind != 3) return 21;
    if (width > to_pitch || width > pitch) return 12;
    return put((work){target, source, to_pitch, pitch, width, rows});
}
int cudaMemsetAsync(void* target, int value, size_t size, void* stream)
{
    (void)stream;
    return value ? 1 : put((work){target, NULL, size, size, size, 1});
}
int cudaStreamBeginCapture(void* stream, int mode)
{
    if (!stream || mode != 2 || capturing) return 1;
    capturing = calloc(1, sizeof(graph));
    return 0;
}
int cudaStreamEndCapture(void* stream, graph** found)
{
    if (!stream || !capturing) return 1;
    *found = refused ? NULL : capturing;
    graphs += !refused;
    if (refused) free(capturing);
    capturing = NULL;
    return refused ? 901 : 0;
}
int cudaGraphInstantiateWithFlags(graph** ready, graph* made, u64 flags)
{
    if (flags) return 1;
    *ready = malloc(sizeof(graph));
    **ready = *made;
    ++graphs;
    return 0;
}
int cudaGraphDestroy(graph* made) { --graphs; free(made); return 0; }
int cudaGraphExecDestroy(graph* ready) { --graphs; free(ready); return 0; }
int cudaGraphLaunch(graph* ready, void* stream)
{
    if (!stream || capturing) return 1;
    for (int part = 0; part < ready->count; ++part) do_work(&ready->parts[part]);
    return 0;
}
int cudaStreamCreateWithFlags(void** stream, unsigned flags)
{
    // Only what does not wait for the default stream.
    if (flags != 1) return 1;
    ++streams;
    *stream = malloc(1);
    return 0;
}
int cudaStreamDestroy(void* stream) { --streams; free(stream); return 0; }
int cudaStreamSynchronize(void* stream) { (void)stream; return 0; }
int cudaDeviceSynchronize(void) { return 0; }
int cudaEventCreate(u64** event) { ++events; *event = malloc(sizeof(u64)); return 0; }
int cudaEventDestroy(u64* event) { --events; free(event); return 0; }
int cudaEventRecord(u64* event, void* stream) { (void)stream; *event = clock_ticks += 3; return 0; }
int cudaEventSynchronize(u64* event) { return *event == 0; }
int cudaEventElapsedTime(float* milliseconds, u64* start, u64* end) { *milliseconds = (float)(*end - *start) / 2; return 0; }
char const* cudaGetErrorString(int code) 
{
    return code == 101 ? "invalid device ordinal" : code == 901 ? "a capture was invalidated" : "something else";
}
