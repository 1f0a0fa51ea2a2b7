"""The heads of APT's tasks, which its two models share (spec 4.3 and 5.4): pooled rows -> logits or a score."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from .component import Port, Weight, linear_weights, norm_weights
from .layers import layer_norm_of, linear_of

HEADS = {"vqa": "vqa_classifier", "nlvr2": "nlvr2_classifier", "irtr": "rank_output"}
EPS = 1e-5


def images_of(task: str) -> int:
    """Images that one text is asked about."""
    return 2 if task == "nlvr2" else 1


def head_weights(task: str, width: int, hidden: int, classes: int) -> dict[str, Weight]:
    """Every tensor of the task's head. width is that of one image's pooled row; hidden is nothing to irtr."""
    head = HEADS[task]
    if task == "irtr":
        return linear_weights(head, classes, width)
    first = linear_weights(f"{head}.0", hidden, images_of(task) * width) | norm_weights(f"{head}.1", hidden)
    return first | linear_weights(f"{head}.3", classes, hidden)


def output_port(task: str, classes: int) -> Port:
    """What `head` gives."""
    return Port("score" if task == "irtr" else "logits", "float32", ("batch", classes))


def head(weights: Mapping[str, Tensor], task: str, pooled: Tensor) -> Tensor:
    """logits or score [B,classes], float32, of pooled rows [images*B,1,width]: those of the first image come first."""
    name, images = HEADS[task], images_of(task)
    if images > 1:
        pooled = pooled.reshape(images, -1, pooled.shape[-1]).transpose(0, 1).flatten(1)[:, None]
    if task == "irtr":
        return linear_of(weights, name, pooled)[:, 0].float()
    hidden = layer_norm_of(weights, f"{name}.1", linear_of(weights, f"{name}.0", pooled), EPS)
    return linear_of(weights, f"{name}.3", F.gelu(hidden))[:, 0].float()
