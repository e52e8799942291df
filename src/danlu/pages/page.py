"""A page: a template of a stage on the common base, everything escaped, written whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.pages import numbers
from danlu.pages.unseen import show_unseen
from danlu.runs import write_text


def write_page(path: Path, package: str, template: str, values: dict[str, Any]) -> None:
    """Writes one self-contained HTML file.

    Args:
        path: the HTML file.
        package: the package in whose folder `templates` the template is; it may extend `base.html.j2`.
        template: the template's file name.
        values: what the template shows. Text is escaped, and characters that can't be seen are shown as `[U+202E]`.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("danlu.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "number": numbers.number,
        "share": numbers.share,
        "duration": numbers.duration,
        "size": numbers.size,
    }
    write_text(path, environment.get_template(template).render(**values))


def _finalize(value: Any) -> Any:
    # Markup (a macro's or block's output) is a str subclass whose texts have been through here already.
    return show_unseen(value) if type(value) is str else value
