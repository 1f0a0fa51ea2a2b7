"""Is an answer right? The one rule for the command line, the checks and the demonstration."""

from .data import Answer, Request


def correct(request: Request, answer: Answer) -> bool | None:
    """Whether an answer is one of those the request accepts; None where it names none.

    An expected index is compared with the choice that was made. So is an expected text that is one of the request's
    choices; another text is compared with the answer's, letter case and outer spaces apart.
    """
    if request.answer is None:
        return None
    if isinstance(request.answer, int):
        return answer.choice == request.answer
    accepted = {_plain(text) for text in accepted_texts(request)}
    indices = {index for index, choice in enumerate(request.choices or ()) if _plain(choice) in accepted}
    return answer.choice in indices if indices else _plain(answer.text) in accepted


def accepted_texts(request: Request) -> tuple[str, ...]:
    """The accepted answers as texts; of an index into the choices, the choice. Empty where none is known."""
    match request.answer:
        case None:
            return ()
        case int(index):
            return ((request.choices or ())[index],)
        case str(text):
            return (text,)
        case texts:
            return texts


def _plain(text: str) -> str:
    return text.strip().casefold()
