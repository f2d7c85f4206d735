"""What all pages share: the template engine, which escapes whatever comes from data, the style, and how figures are written."""

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> "Environment":
    """Templates of this folder, with the filters `hours`, `size` and `number`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("labeling", "report")
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader)
    made.filters |= {"hours": hours, "size": size, "number": number}
    return made


def style() -> str:
    """The style sheet."""
    return (files("labeling.report") / "style.css").read_text("utf-8")


def hours(value: float) -> str:
    """A length of time in the unit that reads best."""
    if value >= 1:
        return f"{value:,.1f} h"
    return f"{60 * value:.1f} min" if value >= 1 / 60 else f"{3600 * value:.1f} s"


def size(count: float) -> str:
    """A number of bytes in the unit that reads best."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def number(value: float) -> str:
    """A number with as many digits as the eye needs."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = "0e" if 0 < abs(value) < 0.001 else "2g" if abs(value) < 0.01 else "3g"
    return f"{value:.{digits}}"
