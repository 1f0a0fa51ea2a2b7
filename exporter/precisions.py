"""The precisions that graphs and engines are made in."""

# Those that are made without data; the others are calibrated first.
PLAIN = ("fp32", "fp16", "bf16")
# The type of the matrices.
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "float8e4m3fn"}
DTYPES |= {"int8-weights": "int8", "int4-weights": "int4"}
# Bytes of a number in a plain graph.
ITEM_SIZE = {"fp32": 4, "fp16": 2, "bf16": 2}
# Bits of a weight that tell it from its neighbours.
_SIGNIFICANT = {"fp32": 24, "fp16": 11, "bf16": 8}


def rounded_weights(own: str, asked: str) -> str | None:
    """What to know of graphs in the precision `asked` of a bundle that was exported in `own`: their weights were
    rounded to that first. None where it is the finer one."""
    if _SIGNIFICANT.get(own, 0) >= _SIGNIFICANT.get(asked, 0):
        return None
    return (
        f"the bundle was exported in {own}: what is {asked} here has weights that were rounded to {own}, and `check` "
        f"may find it outside the limits of {asked}. For weights as the source has them, export it in fp32."
    )
