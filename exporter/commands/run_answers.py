"""`memvp-export run` on a bundle that answers: one text, or a file of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import console
from ..errors import InputError
from .run_lines import dry_run_is_done, warn_truncated

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..data import Answer, Request
    from ..settings import Settings


def run_text(path: Path, flags: Mapping[str, Any], engine: Mapping[str, Any]) -> None:
    """Answer one text; engine holds what opens a session."""
    from ..bundle import Bundle
    from ..pipelines import takes_labels
    from ..run import run

    bundle = Bundle.open(path)
    settings = _settings(bundle, flags)
    if flags["text"] is None and not takes_labels(bundle.manifest):
        raise InputError(f"give --text: {path} is of {bundle.manifest['family']}, which answers a text about an image.")
    asked = (flags["text"] or "", flags["image"], flags["choices"], flags["hint"] or "")
    answer = run(bundle, *asked, settings, image_2=flags["image_2"], labels=_labels(bundle, flags), **engine)
    if answer.truncated:
        warn_truncated()
    if flags["as_json"]:
        console.print_json(answer.to_dict())
    elif answer.choice is not None and answer.choice >= 0:
        click.echo(f"{answer.text}  ({flags['choices'][answer.choice]})")
    else:
        click.echo(answer.text)
        for label, share in answer.top:
            click.echo(f"  {share:7.2%}  {label}")
    if answer.choice == -1:
        console.note("the answer names none of the choices")


def run_data(path: Path, flags: Mapping[str, Any], engine: Mapping[str, Any]) -> None:
    """Answer a file of requests, and say how many of its answers are right; engine holds what opens a session."""
    from ..bundle import Bundle
    from ..data import read_answers
    from ..datasets import open_dataset
    from ..judging import correct
    from ..pipelines import ranks
    from ..ranking import rankings
    from ..run import check_file, run_file

    bundle = Bundle.open(path)
    data, output = flags["data"], flags["output"]
    settings, labels = _settings(bundle, flags), _labels(bundle, flags)
    given = flags["temperature"] or flags["max_new_tokens"] or flags["beams"] is not None
    if given and open_dataset(data).single_pass:
        raise InputError(
            f"{data} is answered by its official way, one greedy token: no options of generation go with it."
        )
    if flags["dry_run"]:
        count = check_file(bundle, data, labels=labels, **engine)
        return dry_run_is_done(data, count, "nothing was answered", flags["as_json"])
    if output is None:
        raise InputError("--data needs -o: the file the answers go to.")
    count = run_file(bundle, data, output, settings, not flags["no_resume"], answered=_warn, labels=labels, **engine)
    # Of the whole file, where an earlier run answered a part of it.
    dataset, answers = open_dataset(data), {answer.id: answer for answer in read_answers(output)}
    verdicts = [correct(request, answers[request.id]) for request in dataset.requests()]
    judged = [verdict for verdict in verdicts if verdict is not None]
    right = sum(judged)
    scores = dataset.score(answers) if dataset.score else {}
    ranked = rankings(dataset.requests(), answers) if ranks(bundle.manifest) else []
    if flags["as_json"]:
        console.print_json(
            {"output": str(output), "answered": count, "judged": len(judged), "right": right}
            | ({"scores": {name: vars(row) for name, row in scores.items()}} if scores else {})
            | ({"rankings": [asdict(one) for one in ranked]} if ranked else {})
        )
    else:
        from ..tables import print_rankings, print_subsets

        if scores:
            print_subsets(scores)
        if ranked:
            print_rankings(ranked)
    accuracy = f"; {right} of {len(judged)} are right ({right / len(judged):.1%})" if judged else ""
    earlier = f", {len(answers)} with those of an earlier run" if len(answers) > count else ""
    console.done(f"done: {count} requests answered into {output}{earlier}{accuracy}")


def _settings(bundle: "Bundle", flags: Mapping[str, Any]) -> "Settings":
    from ..settings import Settings, beams_of

    longest = flags["max_new_tokens"]
    if longest is None:
        longest = (bundle.manifest["generation"] or {"max_new_tokens": 1})["max_new_tokens"]
    beams = flags["beams"]
    if beams is None:
        # What is drawn is not searched for.
        beams = 1 if flags["temperature"] else beams_of(bundle.manifest)
    return Settings(longest, flags["temperature"], flags["top_p"], flags["seed"], flags["batch"], beams)


def _labels(bundle: "Bundle", flags: Mapping[str, Any]) -> list[str] | None:
    from ..labels import read_label_set
    from ..run import require_takes_labels

    if not flags["labels"]:
        return None
    require_takes_labels(bundle)
    return read_label_set(flags["labels"])


def _warn(requests: "Sequence[Request]", answers: "Sequence[Answer]") -> None:
    for answer in answers:
        if answer.truncated:
            warn_truncated(answer.id)
