// What CMake reads of it.
#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 13
