#include "contract.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

namespace memvp
{
namespace
{

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

constexpr char const* kINPUT_NAMES[kINPUTS] = {"hidden", "ffn", "visual", "key_positions", "value_positions"};
constexpr int32_t kRANKS[kINPUTS] = {3, 3, 3, 2, 2};

enum Input
{
    kHIDDEN,
    kFFN,
    kVISUAL,
    kKEYS,
    kVALUES,
};

struct Activation
{
    char const* name;
    MemvpActivation id;
};

constexpr Activation kACTIVATIONS[] = {
    {"relu", kMEMVP_RELU},
    {"silu", kMEMVP_SILU},
    {"gelu", kMEMVP_GELU},
    {"quick_gelu", kMEMVP_QUICK_GELU},
};

// Nothing is allocated unless it throws: every call of the operator comes through here.
MemvpActivation activationOf(char const* name)
{
    for (auto const& activation : kACTIVATIONS)
    {
        if (!std::strcmp(name, activation.name))
        {
            return activation.id;
        }
    }
    std::string known;
    for (auto const& activation : kACTIVATIONS)
    {
        known += (known.empty() ? "" : ", ") + std::string(activation.name);
    }
    throw Refusal(std::string("the activation '") + name + "' is unknown; known: " + known);
}

PluginField const* find(PluginFieldCollection const& fields, char const* name) noexcept
{
    for (int32_t i = 0; i < fields.nbFields; ++i)
    {
        if (fields.fields[i].name && !std::strcmp(fields.fields[i].name, name))
        {
            return &fields.fields[i];
        }
    }
    return nullptr;
}

PluginField const& need(
    PluginFieldCollection const& fields, char const* name, PluginFieldType type, char const* typeName)
{
    auto const* field = find(fields, name);
    if (!field || !field->data || field->length < 1)
    {
        throw Refusal(std::string("the attribute '") + name + "' (" + typeName + ") is missing");
    }
    if (field->type != type || (type != PluginFieldType::kCHAR && field->length != 1))
    {
        throw Refusal(std::string("the attribute '") + name + "' is not one " + typeName);
    }
    return *field;
}

float floatOf(PluginFieldCollection const& fields, char const* name)
{
    return *static_cast<float const*>(need(fields, name, PluginFieldType::kFLOAT32, "float32").data);
}

// TensorRT's parser counts a closing NUL in the length, other callers may not.
std::string stringOf(PluginFieldCollection const& fields, char const* name)
{
    auto const& field = need(fields, name, PluginFieldType::kCHAR, "string");
    auto const* text = static_cast<char const*>(field.data);
    return std::string(text, strnlen(text, static_cast<size_t>(field.length)));
}

template <size_t size>
void copy(char (&target)[size], std::string const& text) noexcept
{
    std::memset(target, 0, size);
    text.copy(target, size - 1);
}

std::string describe(Shape const& shape)
{
    std::string text;
    for (int32_t i = 0; i < shape.rank; ++i)
    {
        text += (i ? "," : "") + (shape.extents[i] < 0 ? std::string("?") : std::to_string(shape.extents[i]));
    }
    return "[" + text + "]";
}

char const* typeName(DataType type) noexcept
{
    switch (type)
    {
    case DataType::kFLOAT: return "float32";
    case DataType::kHALF: return "float16";
#if MEMVP_HAS_BFLOAT16
    case DataType::kBF16: return "bfloat16";
#endif
    case DataType::kINT8: return "int8";
    default: return "another type";
    }
}

MemvpType kernelType(DataType type) noexcept
{
#if MEMVP_HAS_BFLOAT16
    if (type == DataType::kBF16)
    {
        return kMEMVP_BFLOAT16;
    }
#endif
    return type == DataType::kHALF ? kMEMVP_FLOAT16 : kMEMVP_FLOAT32;
}

void checkSame(Shape const* shapes, Input one, int32_t axis, Input other, int32_t otherAxis, char const* what)
{
    auto const left = shapes[one].extents[axis];
    auto const right = shapes[other].extents[otherAxis];
    if (left >= 0 && right >= 0 && left != right)
    {
        throw Refusal(std::string(what) + " differ: " + kINPUT_NAMES[one] + " is " + describe(shapes[one]) + ", "
            + kINPUT_NAMES[other] + " is " + describe(shapes[other]));
    }
}

int32_t asInt(int64_t extent, Input input, Shape const& shape)
{
    if (extent < 0 || extent > INT32_MAX)
    {
        throw Refusal(std::string(kINPUT_NAMES[input]) + " is " + describe(shape) + ", which no call can have");
    }
    return static_cast<int32_t>(extent);
}

} // namespace

Shape shapeOf(nvinfer1::Dims const& dims) noexcept
{
    Shape shape{dims.nbDims, {}};
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        shape.extents[i] = dims.d[i];
    }
    return shape;
}

Shape shapeOf(nvinfer1::DimsExprs const& dims) noexcept
{
    Shape shape{dims.nbDims, {}};
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        shape.extents[i] = dims.d[i]->isConstant() ? static_cast<int64_t>(dims.d[i]->getConstantValue()) : -1;
    }
    return shape;
}

PluginFieldCollection const* attributeFields() noexcept
{
    static PluginField const fields[kATTRIBUTES]
        = {{"scale", nullptr, PluginFieldType::kFLOAT32, 1}, {"activation", nullptr, PluginFieldType::kCHAR, 1}};
    static PluginFieldCollection const collection{kATTRIBUTES, fields};
    return &collection;
}

State readAttributes(PluginFieldCollection const& fields)
{
    State state{};
    state.schema = kSCHEMA;
    copy(state.buildId, buildId());
    state.scale = floatOf(fields, "scale");
    if (!std::isfinite(state.scale))
    {
        throw Refusal("the attribute 'scale' is " + std::to_string(state.scale));
    }
    auto const activation = stringOf(fields, "activation");
    activationOf(activation.c_str());
    copy(state.activation, activation);
    state.workspace = Workspace::kNOT_ASKED;
    return state;
}

void checkSchema(int32_t schema)
{
    if (schema != kSCHEMA)
    {
        throw Refusal("the engine holds a plugin of schema " + std::to_string(schema) + ", this library is of schema "
            + std::to_string(kSCHEMA) + ": build the engine again with this library");
    }
}

void checkBuild(char const* build)
{
    // The workspace in the engine was measured with the kernels of its build.
    if (std::strcmp(build, buildId()))
    {
        throw Refusal(std::string("the engine was built with the plugin library of build ") + build
            + ", this library is of build " + buildId() + ": load that one, or build the engine again with this one");
    }
}

#if NV_TENSORRT_MAJOR >= 10

void writeState(State const& state, PluginField (&fields)[kSTATE_FIELDS]) noexcept
{
    auto const length = [](char const* text) { return static_cast<int32_t>(std::strlen(text)) + 1; };
    fields[0] = PluginField("schema", &state.schema, PluginFieldType::kINT32, 1);
    fields[1] = PluginField("build_id", state.buildId, PluginFieldType::kCHAR, length(state.buildId));
    fields[2] = PluginField("scale", &state.scale, PluginFieldType::kFLOAT32, 1);
    fields[3] = PluginField("activation", state.activation, PluginFieldType::kCHAR, length(state.activation));
    fields[4] = PluginField("workspace", &state.workspace, PluginFieldType::kINT64, 1);
}

State readState(PluginFieldCollection const& fields)
{
    checkSchema(*static_cast<int32_t const*>(need(fields, "schema", PluginFieldType::kINT32, "int32").data));
    checkBuild(stringOf(fields, "build_id").c_str());
    auto state = readAttributes(fields);
    auto const& workspace = need(fields, "workspace", PluginFieldType::kINT64, "int64");
    std::memcpy(&state.workspace, workspace.data, sizeof(state.workspace)); // TensorRT may keep it unaligned
    return state;
}

#endif

bool supports(DataType type) noexcept
{
#if MEMVP_HAS_BFLOAT16
    if (type == DataType::kBF16)
    {
        return true;
    }
#endif
    return type == DataType::kFLOAT || type == DataType::kHALF;
}

void checkTypes(DataType const* types, int32_t inputs)
{
    if (inputs != kINPUTS)
    {
        throw Refusal("it takes 5 inputs, not " + std::to_string(inputs));
    }
    for (int32_t i = 0; i < inputs; ++i)
    {
        if (!supports(types[i]))
        {
            throw Refusal(std::string(kINPUT_NAMES[i]) + " is " + typeName(types[i]) + "; supported: float32, float16"
                + (MEMVP_HAS_BFLOAT16 ? ", bfloat16" : ""));
        }
        if (types[i] != types[0])
        {
            throw Refusal(std::string("all inputs take one type: hidden is ") + typeName(types[0]) + ", "
                + kINPUT_NAMES[i] + " is " + typeName(types[i]));
        }
    }
}

void checkShapes(Shape const* shapes, int32_t inputs)
{
    if (inputs != kINPUTS)
    {
        throw Refusal("it takes 5 inputs, not " + std::to_string(inputs));
    }
    for (int32_t i = 0; i < inputs; ++i)
    {
        if (shapes[i].rank != kRANKS[i])
        {
            throw Refusal(std::string(kINPUT_NAMES[i]) + " is " + describe(shapes[i]) + ", it takes "
                + std::to_string(kRANKS[i]) + " dimensions");
        }
    }
    for (auto const input : {kVISUAL, kKEYS})
    {
        if (shapes[input].extents[kRANKS[input] - 2] < 0)
        {
            throw Refusal(std::string("the rows of ") + kINPUT_NAMES[input] + " are not fixed: " + kINPUT_NAMES[input]
                + " is " + describe(shapes[input]));
        }
    }
    for (auto const input : {kFFN, kVISUAL, kKEYS, kVALUES})
    {
        checkSame(shapes, kHIDDEN, 2, input, kRANKS[input] - 1, "widths");
    }
    checkSame(shapes, kHIDDEN, 0, kFFN, 0, "batches");
    checkSame(shapes, kHIDDEN, 1, kFFN, 1, "tokens");
    checkSame(shapes, kKEYS, 0, kVALUES, 0, "rows");
    if (shapes[kVISUAL].extents[0] != 1)
    {
        checkSame(shapes, kHIDDEN, 0, kVISUAL, 0, "batches (visual may also have 1)");
    }
    auto const rows = shapes[kVISUAL].extents[1];
    auto const tableRows = shapes[kKEYS].extents[0];
    if (rows > tableRows)
    {
        throw Refusal("the visual memory has " + std::to_string(rows) + " rows, the position tables only "
            + std::to_string(tableRows));
    }
}

MemvpVisualMemory problemOf(State const& state, Shape const* shapes, DataType type)
{
    checkShapes(shapes, kINPUTS);
    MemvpVisualMemory problem{};
    problem.batch = asInt(shapes[kHIDDEN].extents[0], kHIDDEN, shapes[kHIDDEN]);
    problem.tokens = asInt(shapes[kHIDDEN].extents[1], kHIDDEN, shapes[kHIDDEN]);
    problem.width = asInt(shapes[kHIDDEN].extents[2], kHIDDEN, shapes[kHIDDEN]);
    problem.rows = asInt(shapes[kVISUAL].extents[1], kVISUAL, shapes[kVISUAL]);
    problem.tableRows = asInt(shapes[kKEYS].extents[0], kKEYS, shapes[kKEYS]);
    problem.visualBatch = asInt(shapes[kVISUAL].extents[0], kVISUAL, shapes[kVISUAL]);
    problem.type = kernelType(type);
    problem.activation = activationOf(state.activation);
    problem.scale = state.scale;
    return problem;
}

size_t workspaceOf(MemvpVisualMemory problem)
{
    // What a call without tokens is told, one with a token could use.
    problem.batch = std::max(problem.batch, 1);
    problem.tokens = std::max(problem.tokens, 1);
    problem.visualBatch = 1;
    auto const bytes = memvpVisualMemoryFfnWorkspace(&problem);
    if (!bytes)
    {
        throw Refusal("the kernels know no call of " + std::to_string(problem.batch) + " x "
            + std::to_string(problem.tokens) + " tokens of width " + std::to_string(problem.width) + " with "
            + std::to_string(problem.tableRows) + " rows");
    }
    return bytes;
}

void launch(State const& state, nvinfer1::PluginTensorDesc const* inputDescs, void const* const* inputs, void* output,
    void* workspace, uint64_t workspaceBytes, cudaStream_t stream)
{
    Shape shapes[kINPUTS];
    std::transform(inputDescs, inputDescs + kINPUTS, shapes,
        [](nvinfer1::PluginTensorDesc const& desc) { return shapeOf(desc.dims); });
    auto const problem = problemOf(state, shapes, inputDescs[0].type);
    if (problem.batch == 0 || problem.tokens == 0)
    {
        return;
    }
    auto const status = memvpVisualMemoryFfn(&problem, inputs[kHIDDEN], inputs[kFFN], inputs[kVISUAL], inputs[kKEYS],
        inputs[kVALUES], output, workspace, static_cast<size_t>(workspaceBytes), stream);
    if (status == kMEMVP_SMALL_WORKSPACE)
    {
        throw Refusal("the call takes " + std::to_string(memvpVisualMemoryFfnWorkspace(&problem))
            + " bytes of workspace, TensorRT was told of " + std::to_string(workspaceBytes));
    }
    if (status == kMEMVP_CUDA_ERROR)
    {
        throw Refusal(std::string("a kernel could not be launched: ") + memvpLastCudaError());
    }
    if (status != kMEMVP_SUCCESS)
    {
        throw Refusal(memvpStatusString(status));
    }
}

} // namespace memvp
