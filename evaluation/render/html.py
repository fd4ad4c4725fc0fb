"""Templates of HTML pages, with filters that write figures."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from evaluation.render import formats

if TYPE_CHECKING:
    import jinja2


def template(name: str) -> jinja2.Template:
    """A template; what is put into it is escaped.

    Args:
        name: Of its file in `templates/`.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=jinja2.FunctionLoader(_source)
    )
    environment.filters |= {
        "figure": formats.figure,
        "interval": formats.interval_text,
        "difference": formats.difference_text,
        "p": formats.p_text,
        "ms": formats.milliseconds,
        "rows": formats.rows_text,
        "count": formats.count_text,
    }
    return environment.get_template(name)


def _source(name: str) -> str:
    return (resources.files("evaluation.render") / "templates" / name).read_text(encoding="utf-8")
