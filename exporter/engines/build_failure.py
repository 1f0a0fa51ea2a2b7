"""What TensorRT says of a build that gave no engine, with what to do about it."""

from __future__ import annotations

import re
from typing import Any

from .engine_error import EngineError
from .tensorrt_module import with_reason

_WORKSPACE = r"insufficient workspace|[Ww]orkspace .*too small|within workspace limit|allowed workspace size"
# Words in TensorRT's errors -> what to do about it.
_FIXES = (
    (
        r"[Oo]ut ?[Oo]f ?[Mm]emory|bad_alloc|cudaMalloc|could not be allocated",
        "environment",
        "the machine has too little memory to build this: free GPU memory, lower --max-batch or --max-seq, or limit "
        "--workspace.",
    ),
    (
        _WORKSPACE,
        "environment",
        "its kernels need more memory to work in: free GPU memory, or lower --max-batch or --max-seq.",
    ),
    (
        r"[Pp]lugin not found|([Uu]nable to|[Cc]annot) find plugin|getPluginCreator",
        "environment",
        "the plugin is not registered: memvp-export plugin build, or build with --plugin off.",
    ),
    (
        r"SM \d+.*not supported|[Uu]nsupported (SM|GPU|device|compute)|compute capability",
        "environment",
        "this TensorRT does not support this GPU: use another version of TensorRT, or another GPU.",
    ),
    (
        r"[Oo]ptimization profile|kMAX|kMIN|kOPT|IProfile",
        "input",
        "give other --min-shapes, --opt-shapes, --max-shapes.",
    ),
)


def build_failure(trt: Any, component: str, errors: list[str], workspace: int | None = None) -> EngineError:
    """The error of a build that gave no engine; the kind is "verdict" where nothing is known to help. workspace is what
    was asked for, in bytes."""
    said = " ".join(errors)
    kind, advice = next(((kind, fix) for words, kind, fix in _FIXES if re.search(words, said)), ("verdict", ""))
    if workspace is not None and re.search(_WORKSPACE, said):
        kind, advice = "input", f"no kernel works in a workspace of {workspace} bytes: give --workspace more, or none."
    message = f"{trt.__name__} {trt.__version__} could not build {component}"
    return EngineError(with_reason(f"{message}: {advice}" if advice else f"{message}.", errors), kind)
