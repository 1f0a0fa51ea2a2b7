"""Text files that a user names, such as labels and vocabularies: read whole, with messages instead of tracebacks."""

from pathlib import Path

from .errors import EnvironmentLack, InputError

_LARGEST = 64 << 20


def read_small_text(path: Path, what: str, give: str) -> str:
    """The text of a UTF-8 file, without a byte order mark. what it should be and the sentence `give`, what to give
    instead, are for messages: InputError for what is no file, no text, or larger than such files are."""
    try:
        if path.is_file() and path.stat().st_size > _LARGEST:
            raise InputError(f"{path} is no {what}: it has more than {_LARGEST >> 20} MiB. {give}")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text. {give}") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"{path} is not a file. {give}") from error
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be read: {error.strerror}.") from error
