"""The page that the reports share: its templates, the inline figure, and how numbers are set.

`page.html` owns the style and the frame, `nested.html` the lists of a provenance. A report's own
template extends the one and knows nothing of the network either.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup, escape


def template(name: str) -> Template:
    """A template of this package, which escapes whatever it is given."""
    return _environment().get_template(name)


def inline(svg: str, function: str, name: str = "figure") -> Markup:
    """An SVG file as an element of a page: without prolog, namespaces and metadata, with a name.

    Its identifiers that are referred to begin with the name, which tells them from those of other
    pictures of the page; its caption is the element `NAME-caption`.

    Raises:
        ValueError: there is no SVG element; `function` is who asks.
    """
    found = re.search(r"<svg\b([^>]*)>(.*</svg>)", svg, flags=re.DOTALL)
    if found is None:
        raise ValueError(
            f"[{function}] svg must hold an SVG element, got {svg[:40]!r}; pass svg_text(figure)."
        )
    attributes = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", found[1])
    content = re.sub(r"<metadata>.*?</metadata>", "", found[2], flags=re.DOTALL)
    # Equal images have equal identifiers, which a page must not have twice; none refers to them.
    used = set(re.findall(r"""(?:href="#|url\(#)([^")]+)""", content))
    content = re.sub(r'\s+id="([^"]*)"', lambda own: own[0] if own[1] in used else "", content)
    content = re.sub(r"""(\bid="|href="#|url\(#)""", rf"\g<1>{name}-", content)
    width = re.search(r'\bwidth="([\d.]+)pt"', attributes)
    # Between these its text reads well.
    least, most = (f"{k * float(width[1]):.0f}pt" for k in (0.8, 1.1)) if width else ("0", "none")
    sizes = f"--least: {least}; --most: {most}"
    named = f'role="img" aria-labelledby="{name}-caption" style="{sizes}"'
    return Markup(f"<svg {named}{attributes}>{content}")


def with_contents(sections: str) -> Markup:
    """Sections behind links to them, by their headings of the second level."""
    headings = re.findall(r'<h2 id="([\w-]+)">(.*?)</h2>', sections)
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in headings)
    return Markup(f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n{sections}')


def number(value: float, decimals: int) -> str:
    """With these decimals, or one where the value is so large that more would be noise."""
    digits = decimals if abs(value) < 1000 else 1
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return "—" if math.isnan(value) else f"{round(value, digits) + 0.0:,.{digits}f}"


def interval(low: float, high: float, decimals: int) -> str:
    """`[low, high]`, or nothing where there is no interval."""
    ends = [number(end, decimals) for end in (low, high)]
    return "" if math.isnan(low) or math.isnan(high) else f"[{', '.join(ends)}]"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _columns(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every key that some record has, in the order of first appearance."""
    return list(dict.fromkeys(key for record in records for key in record))


def _breakable(name: str) -> Markup:
    """A name in snake case that a narrow column may break after an underscore."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))


def _rounded(value: object) -> object:
    """A number with fractions to six digits: more are noise."""
    return f"{value:.6g}" if isinstance(value, float) else value


def _source(name: str) -> str:
    return resources.files("bertft.report").joinpath(name).read_text("utf-8")


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        breakable=_breakable, columns=_columns, rounded=_rounded, with_contents=with_contents
    )
    return environment
