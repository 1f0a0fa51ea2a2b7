// What VisualMemoryFFN takes, the same for every version of TensorRT: visual_memory_ffn.yaml, checked.
#ifndef MEMVP_CONTRACT_H
#define MEMVP_CONTRACT_H

#include "../kernels/memvp_kernels.h"
#include "workspace.h"

#include <NvInfer.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#if NV_TENSORRT_MAJOR >= 9
#define MEMVP_HAS_BFLOAT16 1
#else
#define MEMVP_HAS_BFLOAT16 0
#endif

namespace memvp
{

constexpr char kOPERATOR[] = "VisualMemoryFFN";
constexpr char kVERSION[] = "1";
constexpr char kNAMESPACE[] = "";
constexpr int32_t kSCHEMA = 1;

constexpr int32_t kINPUTS = 5;
constexpr int32_t kATTRIBUTES = 2;
constexpr int32_t kSTATE_FIELDS = 5;

// A network, an engine or a call that the operator does not define; the text is for the user.
class Refusal : public std::runtime_error
{
public:
    using std::runtime_error::runtime_error;
};

// What an engine keeps of the operator: fields by name in TensorRT 10, these bytes in TensorRT 8.
struct State
{
    int32_t schema;
    char buildId[24];
    float scale;
    char activation[16];
    uint64_t workspace; // Workspace::bytes
};

// A tensor's extents; -1 stands for one that is not known yet.
struct Shape
{
    int32_t rank;
    int64_t extents[nvinfer1::Dims::MAX_DIMS];
};

Shape shapeOf(nvinfer1::Dims const& dims) noexcept;
Shape shapeOf(nvinfer1::DimsExprs const& dims) noexcept;

// The attributes that a node of the network must have, named and typed.
nvinfer1::PluginFieldCollection const* attributeFields() noexcept;

// From a node's attributes. Throws Refusal where one is missing, of another type, or has no meaning.
State readAttributes(nvinfer1::PluginFieldCollection const& fields);

// Throws Refusal, naming both, where schema or build of what an engine kept are not those of this library.
void checkSchema(int32_t schema);
void checkBuild(char const* build);

#if NV_TENSORRT_MAJOR >= 10
// `state` as fields; they point into it.
void writeState(State const& state, nvinfer1::PluginField (&fields)[kSTATE_FIELDS]) noexcept;

// From what an engine kept. Throws Refusal where the schema, the build or a field is not one of this library.
State readState(nvinfer1::PluginFieldCollection const& fields);
#endif

bool supports(nvinfer1::DataType type) noexcept;

// Throws Refusal unless all of the inputs have one type that the kernels know.
void checkTypes(nvinfer1::DataType const* types, int32_t inputs);

// Throws Refusal where shapes of the five inputs contradict the contract, as far as they are known.
void checkShapes(Shape const* shapes, int32_t inputs);

// The same for whatever describes the inputs; `shapeOf` takes the shape from one of them.
template <typename Desc, typename ShapeOf>
void checkShapes(Desc const* inputs, int32_t count, ShapeOf&& shapeOf)
{
    Shape shapes[kINPUTS];
    std::transform(inputs, inputs + std::min(count, kINPUTS), shapes, shapeOf);
    checkShapes(shapes, count);
}

// The call that inputs of these known shapes make. Throws Refusal.
MemvpVisualMemory problemOf(State const& state, Shape const* shapes, nvinfer1::DataType type);

// Bytes that serve the problem and every one of fewer samples or tokens; never 0. Throws Refusal where there are none.
size_t workspaceOf(MemvpVisualMemory problem);

// Enqueues the operator; nothing where there are no tokens. Throws Refusal where it needs more than workspaceBytes, and
// where the kernels report a failure.
void launch(State const& state, nvinfer1::PluginTensorDesc const* inputDescs, void const* const* inputs, void* output,
    void* workspace, uint64_t workspaceBytes, cudaStream_t stream);

// A digest of the library's sources; defined in info.cpp.
char const* buildId() noexcept;

} // namespace memvp

#endif // MEMVP_CONTRACT_H
