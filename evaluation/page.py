"""How does a template of this folder become a page? One file, in the styles that all pages share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources

from evaluation.table import difference_text, figure, interval_text


def render(template: str, *, filters: Mapping[str, Callable[..., object]] | None = None, **values: object) -> str:
    """Fills a template in.

    Args:
        template: File name under `templates/`; it may include others from there.
        filters: What the template calls besides `figure`, `interval` and `difference`.
        **values: What it speaks of.

    Returns:
        HTML text; all values are escaped.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=jinja2.FunctionLoader(_source)
    )
    environment.filters |= {"figure": figure, "interval": interval_text, "difference": difference_text}
    environment.filters |= filters or {}
    return environment.get_template(template).render(**values)


def _source(name: str) -> str:
    return (resources.files("evaluation") / "templates" / name).read_text(encoding="utf-8")
