"""Single HTML pages that need nothing else, no network, no script, no file beside them: how one is made and written."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..packages import needing
from ..whole_file import whole_file
from . import page_words as words

if TYPE_CHECKING:
    from jinja2 import Environment

_SHARED = Path(__file__).parent


def page_environment(folder: Path = _SHARED, **filters: Callable[..., Any]) -> "Environment":
    """Jinja's environment for such pages: the templates of `folder` and those that all pages share, the words' filters
    and others by their names. Raises MissingPackage without the extra `report`."""
    with needing("report"):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    environment = Environment(
        loader=FileSystemLoader([folder, _SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= words.FILTERS | filters
    return environment


def write_page(environment: "Environment", template: str, path: Path, **values: Any) -> None:
    """Write the page that a template makes of these values and the time. Raises EnvironmentLack where path cannot be
    written; then nothing is left at path, or what was there before."""
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = environment.get_template(template).render(written=written, **values)
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "replace"))
