"""VQAv2 from its official question and annotation files: requests, and the official soft accuracy.

The definition is that of visualqa.org/evaluation: an answer is right as far as three of ten people gave it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data import Request, read_json
from .errors import InputError
from .image_features import SUFFIXES

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_BETWEEN_DIGITS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = {"a", "an", "the"}
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# A word that lacks one apostrophe of a contraction gets it back; "somebody'd" alone loses it, officially.
_RESTORED = {
    word[:at] + word[at + 1 :]: word
    for word in _CONTRACTIONS.split()
    for at, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}


@dataclass(frozen=True)
class VqaScore:
    """Mean soft accuracy in percent: of all questions, and by answer type (yes/no, number, other)."""

    overall: float
    by_answer_type: dict[str, float]
    questions: int


def read_vqav2(questions: Path | str, images: Path | str, annotations: Path | str | None = None) -> Iterator[Request]:
    """Requests from v2_OpenEnded_mscoco_<split>_questions.json; ids are question ids, the text is the question.

    images holds COCO_<split>_<12 digits>.jpg, or a file of its features (see `image_features`) with the same name but
    for its suffix, or a folder <split> with them. With annotations, `answer` holds the ten
    human answers. Raises InputError for files that are not the official ones and for missing images.
    """
    questions, images = Path(questions), Path(images)
    data = read_json(questions)
    known = {} if annotations is None else _annotations(Path(annotations))
    try:
        # test-dev2015 is a part of the test2015 images.
        split = str(data["data_subtype"]).replace("test-dev", "test")
        for item in data["questions"]:
            qid = str(item["question_id"])
            if annotations is not None and qid not in known:
                raise InputError(f"{annotations} has no annotation of question {qid}: is it of another split?")
            answers = tuple(answer["answer"] for answer in known[qid]["answers"]) if known else None
            yield Request(qid, item["question"], _image(images, split, int(item["image_id"])), answer=answers)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{questions} is no official VQAv2 question file ({error!r}).") from error


def _image(images: Path, split: str, number: int) -> Path:
    name = f"COCO_{split}_{number:012d}"
    for suffix in (".jpg", *SUFFIXES):
        for path in (images / f"{name}{suffix}", images / split / f"{name}{suffix}"):
            if path.is_file():
                return path
    raise InputError(
        f"the image {images / name}.jpg does not exist, and neither does {images / split / name}.jpg, nor a file of "
        f"its features ({', '.join(SUFFIXES)})."
    )


def _annotations(path: Path) -> dict[str, Mapping[str, Any]]:
    try:
        return {str(item["question_id"]): item for item in read_json(path)["annotations"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no official VQAv2 annotation file ({error!r}).") from error


def normalize(answer: str) -> str:
    """The official normalization: lower case, no punctuation but apostrophes, colons and decimal points, numbers up to
    ten as digits, no articles, contractions with their apostrophes."""
    text = answer
    commas = bool(_BETWEEN_DIGITS.search(answer))
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or commas else " ")
    words = (_NUMBERS.get(word, word) for word in _PERIOD.sub("", text).lower().split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """min(matches / 3, 1), averaged over the answers with each one left out in turn; in 0..1.

    Where all people agree, nothing is normalized, as in the official code.
    """
    given, people = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(people)) > 1:
        given, people = normalize(given), [normalize(answer) for answer in people]
    matches = Counter(people)[given]
    return sum(min((matches - (answer == given)) / 3, 1.0) for answer in people) / len(people)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def score(predictions: Mapping[str, str], annotations: Path | str) -> VqaScore:
    """Accuracy over every annotated question. predictions: question id -> text.

    Raises InputError where one has no prediction, or the file is not an official one.
    """
    by_type: defaultdict[str, list[float]] = defaultdict(list)
    known = _annotations(Path(annotations))
    if not known:
        raise InputError(f"{annotations} has no annotations.")
    if missing := [qid for qid in known if qid not in predictions]:
        raise InputError(f"{len(missing)} of {len(known)} questions of {annotations} have no answer, as {missing[0]}.")
    try:
        for qid, item in known.items():
            answers = [answer["answer"] for answer in item["answers"]]
            by_type[str(item["answer_type"])].append(100 * accuracy(predictions[qid], answers))
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{annotations} is no official VQAv2 annotation file ({error!r}).") from error
    every = [value for values in by_type.values() for value in values]
    means = {kind: sum(values) / len(values) for kind, values in sorted(by_type.items())}
    return VqaScore(sum(every) / len(every), means, len(every))
