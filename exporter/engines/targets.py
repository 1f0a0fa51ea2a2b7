"""What the engines that a bundle is made for can take; published graphs are checked against it when written."""

# A graph with any other operator would export well and fail only where it is deployed. TensorRT-RTX 1.7 with TensorRT
# 11.4's parser built graphs of all of these, in fp32, fp16 and bf16; Relu and ReduceMax alone stand in functions that
# no family uses yet.
PUBLISHED_OPERATORS = frozenset(
    {
        *("Add", "And", "Cast", "CastLike", "Concat", "Constant", "Conv", "Cos", "Equal", "Expand", "Gather"),
        *("GatherND", "Gelu", "LessOrEqual", "MatMul", "Mul", "Not", "Pad", "Range", "Reciprocal", "ReduceMax"),
        *("ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze"),
        *("Sub", "Transpose", "Unsqueeze", "Where"),
    }
)
