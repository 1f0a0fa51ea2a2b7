"""How well the committed model answers held-out questions, and how much of that it owes to the image.

python -m memvp_export.examples.shapes.evaluate [MODEL_FOLDER] [QUESTIONS]
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .answer import answer, encode_images
from .files import MODEL
from .load import load_model
from .model import preprocess
from .questions import TYPES, Question, question
from .scenes import draw

SEED = 0
QUESTIONS = 4000


@dataclass(frozen=True)
class Result:
    """Questions, and the answers to them with their image, without any, and with the next question's image."""

    questions: list[Question]
    answers: list[str]
    without_image: list[str]
    swapped: list[str]

    def accuracy(self, answers: Sequence[str], type_: str | None = None) -> float:
        """Share of right answers, of all questions or of one type."""
        pairs = zip(self.questions, answers, strict=True)
        return float(np.mean([q.answer == a for q, a in pairs if type_ in (None, q.type)]))

    def majority(self, type_: str) -> float:
        """Accuracy of always giving the most frequent answer to questions of a type."""
        counts = Counter(q.answer for q in self.questions if q.type == type_)
        return max(counts.values()) / counts.total()

    def changed(self, type_: str | None = None) -> float:
        """Share of answers that change when the image does."""
        rows = zip(self.questions, self.answers, self.swapped, strict=True)
        return float(np.mean([a != b for q, a, b in rows if type_ in (None, q.type)]))


def evaluate(folder: Path = MODEL, count: int = QUESTIONS) -> Result:
    """Answer `count` held-out questions, each about a scene of its own, with the model in `folder`."""
    config, weights, tokenizer = load_model(folder)
    drawn = [question("held-out", SEED, index) for index in range(count)]
    asked = [q for _, q in drawn]
    texts = [q.text for q in asked]
    pixels = torch.from_numpy(np.stack([preprocess(draw(scene), config.tower.image_size) for scene, _ in drawn]))
    memory = encode_images(weights, config, pixels)
    different = sorted(set(texts))
    nothing = encode_images(weights, config, torch.zeros(len(different), *pixels.shape[1:]), with_image=False)
    guesses = dict(zip(different, answer(weights, config, tokenizer, different, nothing), strict=True))
    return Result(
        questions=asked,
        answers=answer(weights, config, tokenizer, texts, memory),
        without_image=[guesses[text] for text in texts],
        # By one type's turn, so that each question gets an image that answers it as well as its own.
        swapped=answer(weights, config, tokenizer, texts, memory.roll(len(TYPES), 0)),
    )


def main() -> None:
    """Print the table."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    count = int(sys.argv[2]) if len(sys.argv) > 2 else QUESTIONS
    torch.set_num_threads(2)
    result = evaluate(folder, count)
    print(f"{'type':10} {'questions':>9} {'accuracy':>9} {'majority':>9} {'no image':>9} {'changed by a swap':>18}")
    for type_ in TYPES:
        number = sum(q.type == type_ for q in result.questions)
        accuracy, without = result.accuracy(result.answers, type_), result.accuracy(result.without_image, type_)
        line = f"{type_:10} {number:9} {accuracy:9.2%} {result.majority(type_):9.2%} {without:9.2%}"
        print(f"{line} {result.changed(type_):18.2%}")
    accuracy, without = result.accuracy(result.answers), result.accuracy(result.without_image)
    print(f"{'all':10} {count:9} {accuracy:9.2%} {'':9} {without:9.2%} {result.changed():18.2%}")


if __name__ == "__main__":
    main()
