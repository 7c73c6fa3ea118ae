"""The page: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

import base64
import functools
from importlib import resources

import jinja2

from emalign_jax.report.contents import Contents


def render(contents: Contents) -> str:
    """HTML, figures and all in the file itself."""
    return _template().render(contents._asdict())


@functools.cache
def _template() -> jinja2.Template:
    source = (resources.files("emalign_jax.report") / "page.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    environment.filters["is_number"] = _is_number
    return environment.from_string(source)


def _is_number(text: str) -> bool:
    try:
        float(text.removesuffix("%"))
    except ValueError:
        return text == "-"
    return True
