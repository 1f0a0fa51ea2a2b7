"""Trains the small APT-ViLT from scratch and writes it as the official files.

    python -m memvp_export.examples.shapes_vilt.train

One process, one thread. All seeds are fixed: the same torch on the same kind of CPU gives the same weights (other kinds
may round bfloat16 products differently).
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...exporter.encoder_tokenizer import EncoderTokenizer
from ...exporter.models import apt_vilt
from ..shapes.lessons import IGNORED
from ..shapes.optimizers import make_optimizers, share, update
from ..shapes.patches import SHOWN
from ..shapes.questions import TYPES
from .lessons import Batch, make_batch
from .model import initial_weights, is_matrix, make_config
from .save import MODEL, open_tokenizer, save_model, write_vocabulary

SCENES = 32  # a step
ASKED_AFTER = 3  # the block after which patches must tell whether the question is about them
WHITENED = 256  # scenes
NOTHING = 0.1  # what a patch without a shape weighs: there are ten for each with one
REPORT = 50


@dataclass(frozen=True)
class Round:
    """A part of the training.

    shown_after is the block after which patches must tell what they show. Prompts learn at prompt_rate times the
    learning rate. renewed are parts of the names of tensors that start anew, prompts at prompt_size times their size.
    """

    steps: int
    learning_rate: float
    shown_after: int
    prompt_rate: float = 1.0
    prompt_size: float = 1.0
    renewed: tuple[str, ...] = ()


_LAST = "transformer.blocks.4."
# The last block first learns to tell colour questions by not looking at the image, and a prompt that is learnt too fast
# ends where nothing is looked up: both start anew. Two sites' prompts end there again, and learn slowly at the end.
ROUNDS = (
    Round(2200, 4e-3, 2),
    Round(1400, 3e-3, 3, renewed=(_LAST, "pooler.", "vqa_classifier.", "transformer.norm.", ".APT.")),
    Round(1800, 2.5e-3, 3, prompt_rate=0.1, prompt_size=0.5, renewed=(f"{_LAST}attn.APT.",)),
    Round(400, 1.5e-3, 3, prompt_rate=0.02, renewed=("blocks.1.attn.APT.mm", "blocks.4.attn.APT.mm")),
)


class Learner:
    """Float32 weights, the optimizers, and the loss of a batch computed in bfloat16."""

    def __init__(
        self, config: apt_vilt.Config, weights: Mapping[str, Tensor], chosen: Round, generator: torch.Generator | None
    ) -> None:
        """Without a generator, what reads the patches starts from nothing: it does no harm to weights that are good."""
        self.config, self.shown_after = config, chosen.shown_after
        self.weights = {name: weight.requires_grad_() for name, weight in weights.items()}
        # They read what a patch shows, and whether the question is about it; they are gone after training.
        sizes = [(1 + len(group), config.dim) for group in SHOWN] + [(2, config.dim)]
        rows = [torch.randn(s, generator=generator) / s[1] ** 0.5 if generator else torch.zeros(s) for s in sizes]
        self.readers = [row.requires_grad_() for row in rows]
        (part,) = apt_vilt.components(config)
        self.float32 = {name for name, weight in part.weights.items() if weight.float32}
        self.constants = {name: torch.from_numpy(value) for name, value in part.constants.items()}
        matrices = [w for n, w in self.weights.items() if is_matrix(n, w)]
        prompts = [w for n, w in self.weights.items() if n.endswith("mm_tokens")]
        vectors = [*(w for n, w in self.weights.items() if not is_matrix(n, w)), *self.readers]
        self.parameters = [*matrices, *vectors]
        apart = {id(w) for w in prompts}
        rest = [w for w in vectors if id(w) not in apart]
        self.optimizers = make_optimizers(matrices, rest, chosen.learning_rate)
        self.optimizers[1].add_param_group({"params": prompts, "lr": chosen.learning_rate * chosen.prompt_rate})

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The losses [5] of answers, of kinds, colours and places shown, of what is asked about; right answers [B]."""
        weights = {n: w if n in self.float32 else w.bfloat16() for n, w in self.weights.items()} | self.constants
        rows = apt_vilt.stream(weights, self.config, batch.inputs)
        logits = apt_vilt.classify(weights, self.config, rows[-1])
        shown = [
            self._patch_loss(rows[self.shown_after], reader, classes, NOTHING)
            for reader, classes in zip(self.readers[:-1], batch.patches, strict=True)
        ]
        asked = self._patch_loss(rows[ASKED_AFTER], self.readers[-1], batch.asked)
        losses = [F.cross_entropy(logits, batch.classes), *shown, asked]
        return torch.stack(losses), logits.argmax(1) == batch.classes

    def _patch_loss(self, x: Tensor, reader: Tensor, classes: Tensor, first: float = 1.0) -> Tensor:
        """How badly the rows of patches in x [B,T+1+N,d] tell these classes [B,N], of which class 0 weighs `first`."""
        patches = F.layer_norm(x[:, -classes.shape[-1] :].float(), (self.config.dim,))
        weight = torch.ones(len(reader))
        weight[0] = first
        return F.cross_entropy((patches @ reader.T).flatten(0, 1), classes.flatten(), weight, ignore_index=IGNORED)

    def trained(self) -> dict[str, Tensor]:
        """The weights as they are now."""
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    def learn(self, loss: Tensor, part: float) -> None:
        """One step of both optimizers at `part` of the learning rate."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        update(self.optimizers, part)


def train(folder: Path) -> None:
    """Write the vocabulary, train, and write the rest."""
    torch.set_num_threads(1)
    vocabulary = write_vocabulary(folder)
    config = make_config(len(vocabulary.read_text().splitlines()))
    tokenizer = open_tokenizer(vocabulary, config.text_length)
    pixels = make_batch(config, tokenizer, 0, WHITENED).inputs["pixel_values"]
    weights = initial_weights(config, generator := torch.Generator().manual_seed(0), pixels)
    first = 0
    for number, one in enumerate(ROUNDS):
        new = initial_weights(config, torch.Generator().manual_seed(number), pixels)
        renewed = {name for name in weights if any(part in name for part in one.renewed)}
        weights = {name: new[name] if name in renewed else weight for name, weight in weights.items()}
        for name in renewed:
            if name.endswith("mm_tokens"):
                weights[name] = one.prompt_size * weights[name]
        learner = Learner(config, weights, one, None if number else generator)
        teach(learner, tokenizer, first, one.steps)
        weights, first = learner.trained(), first + one.steps
    save_model(folder, config, weights)


def teach(learner: Learner, tokenizer: EncoderTokenizer, first: int, steps: int) -> None:
    """Learn from `steps` batches, from number `first` on, and print the progress."""
    started, tally, asked = time.monotonic(), torch.zeros(2 + len(SHOWN) + len(TYPES)), torch.zeros(len(TYPES))
    for step in range(steps):
        batch = make_batch(learner.config, tokenizer, (first + step) * SCENES, SCENES)
        losses, right = learner.losses(batch)
        learner.learn(losses.sum(), share(step, steps))
        of_type = F.one_hot(batch.types, len(TYPES)).float()
        tally += torch.cat([losses.detach(), right.float() @ of_type])
        asked += of_type.sum(0)
        if (step + 1) % REPORT == 0:
            loss = " ".join(f"{one:.3f}" for one in tally[: -len(TYPES)] / REPORT)
            right_of = zip(TYPES, tally[-len(TYPES) :] / asked, strict=True)
            shares = " ".join(f"{type_} {one:6.1%}" for type_, one in right_of)
            seconds = time.monotonic() - started
            print(f"{first + step + 1:6d} {seconds:6.0f} s  losses {loss}  {shares}", flush=True)
            tally.zero_(), asked.zero_()


def main() -> None:
    """Train; an optional argument is the folder to write to."""
    train(Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL)


if __name__ == "__main__":
    main()
