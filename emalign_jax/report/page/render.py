"""The page as HTML: one file that needs nothing else, no network either, and lets nothing in that a run's files say.

Texts of a run are escaped by the template, or travel as JSON, which the scripts put in as text alone. The policy of the
page allows its own script and style by their digests, and no connection.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from importlib import resources

import jinja2
from markupsafe import Markup

from emalign_jax.report.page import rows
from emalign_jax.report.page.contents import Contents

# In this order they are one script.
SCRIPTS = ("elements.js", "data.js", "list.js", "chart.js", "schemes.js", "detail.js", "start.js")
POLICY = (
    "default-src 'none'; img-src data:; script-src '{script}'; style-src '{style}'; base-uri 'none'; form-action 'none'"
)
# In JSON these are the same characters, and end no element and no line of a script.
ESCAPES = {character: f"\\u{ord(character):04x}" for character in "<>&"}


def render(contents: Contents) -> str:
    """HTML, figures and all in the file itself."""
    tables = [rows.document(each) for each in contents.rows]
    script, style = "".join(_file(name) for name in SCRIPTS), _file("page.css")
    policy = POLICY.format(script=_digest(script), style=_digest(style))
    entries = contents._asdict() | {"rows": tables, "data": _json(tables)}
    return _template().render(entries, script=Markup(script), style=Markup(style), policy=policy)


def _json(document: object) -> Markup:
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(str.maketrans(ESCAPES)))


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


@functools.cache
def _file(name: str) -> str:
    return (resources.files("emalign_jax.report.page") / name).read_text("utf-8")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    environment.filters["is_number"] = _is_number
    return environment.from_string(_file("page.html.jinja"))


def _is_number(text: str) -> bool:
    try:
        float(text.removesuffix("%"))
    except ValueError:
        return text == "-"
    return True
