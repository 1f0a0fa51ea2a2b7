"""Trains the small model from scratch and writes it as the official files.

    python -m memvp_export.examples.shapes.train

Two processes with one thread each share every step. All seeds are fixed: the same torch on the same kind of CPU gives
the same weights (other kinds may round bfloat16 products differently).
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from ...exporter.models import memvp_llama
from .files import MODEL, TOKENIZER
from .initial import initial_weights, training_config
from .lessons import IGNORED, QUESTIONS, Batch, make_batch
from .model import logits_at, make_config
from .optimizers import make_optimizers, share, update
from .patches import SHOWN
from .save import save_model, train_tokenizer

WORKERS = 2
STEPS = 2500
SCENES = 16  # a step and worker
LEARNING_RATE = 4e-3
WITHOUT_IMAGE = 0.04
PATCH_LOSS = 1.0
REPORT = 50


class Learner:
    """Float32 weights, the optimizers, and the loss of a batch computed in bfloat16."""

    def __init__(self, config: memvp_llama.Config, tokenizer: sentencepiece.SentencePieceProcessor) -> None:
        generator = torch.Generator().manual_seed(0)
        self.config = training_config(config)
        self.weights = {n: w.requires_grad_() for n, w in initial_weights(config, generator).items()}
        self.nothing = (0.5 * torch.randn(len(SHOWN), config.dim, generator=generator)).requires_grad_()
        self.pieces = [
            [sorted({piece for word in words for piece in tokenizer.encode(word)}) for words in group]
            for group in SHOWN
        ]
        parts = memvp_llama.components(config)
        self.float32 = {name for part in parts for name, weight in part.weights.items() if weight.float32}
        self.frequencies = torch.from_numpy(memvp_llama.rotary_frequencies(config))
        matrices = [w for n, w in self.weights.items() if w.ndim == 2 and n.endswith("weight") and not _is_table(n)]
        chosen = {id(w) for w in matrices}
        others = [w for w in self.weights.values() if id(w) not in chosen]
        self.parameters = [*matrices, *others, self.nothing]
        self.optimizers = make_optimizers(matrices, [*others, self.nothing], LEARNING_RATE)

    def losses(self, batch: Batch, indicator: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of the answers, that of the patches, and which rows are answered right [B*QUESTIONS]."""
        weights = {n: w if n in self.float32 else w.bfloat16() for n, w in self.weights.items()}
        weights["rotary.inverse_frequencies"] = self.frequencies
        memory = memvp_llama.vision(weights, self.config, batch.pixels, torch.ones(len(batch.pixels)))
        seen = (memory * indicator[:, None, None].bfloat16()).repeat_interleave(QUESTIONS, 0)
        logits = logits_at(weights, self.config, batch.ids, batch.mask, seen, batch.where)
        right = ((logits.argmax(-1) == batch.labels) | (batch.labels == IGNORED)).all(1)
        answers = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)
        return answers, self._patch_loss(memory.float(), batch.patches), right

    def _patch_loss(self, memory: Tensor, patches: Tensor) -> Tensor:
        """How badly memory rows [B,v,d] name what their patches show, read with the embeddings of the words.

        It makes rows keys that a word finds, and values in which an answer is written. Without it training lingers
        where any colour of the picture is as good as the right one.
        """
        words = self.weights["model.embed_tokens.weight"]
        total = memory.new_zeros(())
        for nothing, group, shown in zip(self.nothing, self.pieces, patches, strict=True):
            named = [words[pieces].mean(0) * len(pieces) ** 0.5 for pieces in group]
            scores = memory @ torch.stack([nothing, *named]).T
            total = total + F.cross_entropy(scores.flatten(0, 1), shown.flatten())
        return total

    def learn(self, loss: Tensor, part: float) -> None:
        """One step of both optimizers at `part` of the learning rate, on the mean gradient of all workers."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        gradients = [w.grad for w in self.parameters if w.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(flat)
        flat /= WORKERS
        flat *= min(1.0, 1.0 / (float(flat.norm()) + 1e-6))
        for gradient, new in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(new.view_as(gradient))
        update(self.optimizers, part)


def _is_table(name: str) -> bool:
    return name in ("model.embed_tokens.weight", "lm_head.weight")


def _work(rank: int, meeting: str, folder: str, steps: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(Path(folder) / TOKENIZER))
    config = make_config(tokenizer.vocab_size())
    learner = Learner(config, tokenizer)
    generator = torch.Generator().manual_seed(1 + rank)
    started, tally = time.monotonic(), torch.zeros(QUESTIONS + 2)
    for step in range(steps):
        batch = make_batch(config, tokenizer, (step * WORKERS + rank) * SCENES, SCENES)
        indicator = (torch.rand(SCENES, generator=generator) >= WITHOUT_IMAGE).float()
        answers, patches, right = learner.losses(batch, indicator)
        learner.learn(answers + PATCH_LOSS * patches, share(step, steps))
        tally += torch.cat([torch.stack([answers, patches]).detach(), right.view(-1, QUESTIONS).float().mean(0)])
        if (step + 1) % REPORT == 0 and rank == 0:
            loss, patch_loss, *accuracy = (tally / REPORT).tolist()
            shares = " ".join(f"{share:6.1%}" for share in accuracy)
            seconds = time.monotonic() - started
            print(f"{step + 1:6d} {seconds:6.0f} s  loss {loss:.3f}  patches {patch_loss:.3f}  {shares}", flush=True)
            tally.zero_()
    if rank == 0:
        save_model(Path(folder), config, {n: w.detach() for n, w in learner.weights.items()})
    distributed.destroy_process_group()


def main() -> None:
    """Train; an optional argument is the folder to write to, another the number of steps."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else STEPS
    train_tokenizer(folder)
    # Idle threads must not spin where a worker has one core.
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(_work, (f"{meeting}/meeting", str(folder), steps), nprocs=WORKERS)


if __name__ == "__main__":
    main()
