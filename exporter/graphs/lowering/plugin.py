"""Lowering for a target that has the plugin: the operator stays one node, which the parser finds by its name."""

import onnx

from ...inspection.memory_sites import DOMAIN, VISUAL_MEMORY

# ApproximatedPrompt has no kernel: all its operands but the tokens are static, ordinary matrix products.
OPERATORS = (VISUAL_MEMORY,)


def remove_bodies(model: onnx.ModelProto) -> int:
    """Take away the bodies of the operators that the plugin has, and return how many nodes are left to it.

    Parsers differ in what they prefer where there is a body too: those of TensorRT 10.0 and 10.1 take the body, and
    later ones fall back to it without a word where the plugin is not found.
    """
    for index in reversed(range(len(model.functions))):
        if (model.functions[index].domain, model.functions[index].name) in ((DOMAIN, name) for name in OPERATORS):
            del model.functions[index]
    return sum(node.domain == DOMAIN and node.op_type in OPERATORS for node in model.graph.node)
