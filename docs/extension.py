"""What the site needs beyond Sphinx: docstrings in plain English, pages of public names and of commands, and formulas
as MathML, which browsers draw without a script or a network."""

import enum
import inspect
import re
import textwrap
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from typer import Context
from typer.main import get_command

import emalign_jax as em
from emalign_jax.cli.app import app as commands
from emalign_jax.result.batched import Batched

PACKAGE = "emalign_jax"
SOURCE = "https://github.com/emalign/emalign_jax/blob/main"
MODEL = (Path(__file__).parent / "model.md").read_text("utf-8")
SECTIONS = {
    number: nodes.make_id(f"{number} {title}".replace(".", ""))
    for number, title in re.findall(r"^#+ ([\d.]+?)\.? (.*)$", MODEL, re.M)
}
FIELD = re.compile(r"([a-z]\w*(?:, ?[a-z]\w*)*):\s+(\S.*)")
log = logging.getLogger(__name__)


# Docstrings


def plain_docstring(app, kind, name, value, options, lines):
    """Docstrings as napoleon wants them: lists "name: meaning" without a heading get one, characters that would be
    markup are escaped, and sections of the model become links."""
    text = re.sub(r"[Ss]ections?\s+([\d.]+\d)\s+of\s+docs/model\.md", _link_to_section, "\n".join(lines))
    text = re.sub(r"(?<![\w/])docs/([\w/]+)\.md", r"`docs/\1.md <../\1.html>`__", text)
    lines[:] = _with_headings(text.split("\n"), "Attributes" if kind == "class" and _is_result(value) else "Args")


def _link_to_section(found) -> str:
    words = " ".join(found[0].replace("docs/model.md", "the model").split())
    return f"`{words} <../model.html#{SECTIONS[found[1]]}>`__"


def _is_result(value) -> bool:
    return hasattr(value, "_fields")


def _with_headings(lines: list[str], heading: str) -> list[str]:
    made, inside, code = [], False, 0
    for line in lines:
        blank, indent = not line.strip(), len(line) - len(line.lstrip())
        if line.strip() == "Example:" and indent == 0:
            made += ["", line]
            code, inside = 1, False
            continue
        if code:
            if not blank and indent == 0:
                code = 0
            else:
                if code == 1 and not blank and not line.lstrip().startswith(">>>"):
                    made[-1:] = ["Example::", ""]
                code = 2
                made.append(line)
                continue
        if line.lstrip().startswith(">>>"):
            code = 2
            made += ["", line]
            continue
        if indent == 0 and (found := FIELD.fullmatch(line)):
            if not inside:
                made += ["", f"{heading}:"]
                inside = True
            names = found[1].replace(", ", "," if heading == "Attributes" else ", ")
            made.append(f"    {names}: {_escaped(found[2])}")
        elif inside and indent and not blank:
            made.append(" " * 8 + _escaped(line.strip()))
        else:
            if inside and not blank:
                made.append("")
                inside = False
            made.append(_escaped(line))
    return made


def _escaped(text: str) -> str:
    """Characters that are markup to reStructuredText and are not meant so; what stands in backticks is left."""
    parts = re.split(r"(`[^`]*`(?:__)?)", text)
    parts[::2] = [re.sub(r"(?!^\* )\*(?!\w[^*]*\w\*)(?<!\w\*)|\||_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def plain_signature(app, kind, name, value, options, signature, returns):
    """Defaults that only a debugger would want to read are left out."""
    if signature:
        return re.sub(r"=\w*(?:\([^()]*<[^()]*\)|<[^<>]*>)", "=...", signature), None
    return None


def skip_member(app, kind, name, value, skip, options):
    """Not the fields of results once more, which the docstring of the class explains."""
    return True if (getattr(value, "__doc__", "") or "").startswith("Alias for field number") else None


# Pages of public names


class Public(SphinxDirective):
    """```{public} Game Labels``` documents these names of the package; of a module its public functions and classes."""

    has_content = True

    def run(self):
        said, named = [], {}
        for name in " ".join(self.content).split():
            value = getattr(em, name)
            if inspect.ismodule(value):
                said += [inspect.getdoc(value).replace("*", r"\*"), ""]
                named |= {f"{name}.{inner}": getattr(value, inner) for inner in members(value)}
            else:
                named[name] = value
        table = [f"| `em.{name}` | {_first_sentence(value)} |" for name, value in named.items()]
        blocks = [_documented(name, value) for name, value in named.items()]
        return self.parse_text_to_nodes("\n".join([*said, "| name | what it is |", "|---|---|", *table, "", *blocks]))


def members(module) -> list[str]:
    """The public functions and classes of a module that are of the package; those that are public names anyway are
    documented as such."""
    named = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    ]
    return [
        name
        for name in named
        if not name.startswith("_") and name not in em.__all__ and callable(getattr(module, name))
    ]


def _documented(name: str, value) -> str:
    """The directive of autodoc for a name."""
    kind, options = "autofunction", []
    if isinstance(value, enum.EnumMeta):
        kind, options = "autoclass", [":no-members:", "", *(f"   ``{c.name}``\n       {c.message}" for c in value)]
    elif inspect.isclass(value):
        kind, options = "autoclass", [":members:"]
        if issubclass(value, Batched):  # whose methods are those of every result
            options += [":inherited-members: object"]
    elif not callable(value):
        kind, options = "data", ["", f"   {type(value).__doc__}"]
    lines = [f".. {kind}:: {PACKAGE}.{name}", *(f"   {option}" if option[:1] == ":" else option for option in options)]
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def _first_sentence(value) -> str:
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    text = re.sub(r" \(sections? [^)]*docs/model\.md\)", "", text)
    return re.split(r"(?<=[.;:])\s", text, maxsplit=1)[0].rstrip(";:.").replace("|", "\\|") + "."


class NameLinks(SphinxPostTransform):
    """`em.solve` and `em.solve(...)` in any page, and `RationalUser` in docstrings, lead to what they name."""

    default_priority = 5

    def run(self, **kwargs):
        known = self.env.domains.python_domain.objects
        for node in list(self.document.findall(nodes.literal)):
            found = re.fullmatch(r"(?:em\.)?(\w[\w.]*?)(?:\(.*\))?", node.astext())
            if not found or isinstance(node.parent, nodes.reference):
                continue
            name = found[1]
            if not (node.astext().startswith("em.") or re.match("[A-Z][a-z]", name)):
                continue
            entry = known.get(f"{PACKAGE}.{name}")
            if entry is None or _inside(node, nodes.title, nodes.reference) or entry.docname is None:
                continue
            uri = self.app.builder.get_relative_uri(self.env.docname, entry.docname) + "#" + entry.node_id
            link = nodes.reference("", "", internal=True, refuri=uri)
            node.replace_self(link)
            link += node


def _inside(node, *kinds) -> bool:
    while node is not None:
        if isinstance(node, kinds):
            return True
        node = node.parent
    return False


# Pages of commands


class Commands(SphinxDirective):
    """```{commands}```: what `--help` says of every command, as text, examples and a list of options."""

    def run(self):
        group = get_command(commands)
        blocks = []
        for name, command in group.commands.items():
            blocks += self._command(name, command)
        return self.parse_text_to_nodes("\n".join(blocks), allow_section_headings=True)

    def _command(self, name, command) -> list[str]:
        text = inspect.cleandoc(command.help or "")
        said, _, examples = text.partition("Examples:")
        blocks = [f"## emalign {name}", "", _links(said), ""]
        if examples:
            blocks += ["```sh", textwrap.dedent(examples.strip("\n")).rstrip(), "```", ""]
        context = Context(command, info_name=name)
        for parameter in command.params:
            shown, words = parameter.get_help_record(context)
            shown = shown if shown.startswith("-") else shown.split(" <")[0]
            blocks += [f"`{shown}`", f": {_links(' '.join(words.split()))}", ""]
        return blocks


def _links(text: str) -> str:
    """Pages that a help text names, as links; and no markup."""
    text = re.sub(r"([*<>_\[\]])", r"\\\1", text.replace("\b", ""))
    text = re.sub(r"(?<![\w-])--[\w-]+", r"`\g<0>`", text)
    return re.sub(r"docs/([\w/\\]+)\.md", lambda found: f"[{found[0]}](/{found[1]}.md)".replace("\\_", "_"), text)


# Formulas


def _plainer(found) -> str:
    """Commands that docutils does not know, by those that it knows."""
    return {"lt": "<", "gt": ">", "dots": r"\ldots"}[found[1]]


def _mathml(self, node, block: bool):
    try:
        made = latex2mathml.tex2mathml(re.sub(r"\\(lt|gt|dots)(?![a-zA-Z])", _plainer, node.astext()), as_block=block)
    except MathError as error:
        log.warning("formula: %s: %s", error, node.astext(), location=node)
        made = f"<code>{self.encode(node.astext())}</code>"
    self.body.append(f'<div class="formula" tabindex="0">{made}</div>' if block else made)
    raise nodes.SkipNode


def setup(app: Sphinx):
    next(field for field in PyObject.doc_field_types if field.name == "variable").label = "Attributes"
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("autodoc-skip-member", skip_member)
    app.add_directive("public", Public)
    app.add_directive("commands", Commands)
    app.add_post_transform(NameLinks)
    app.add_html_math_renderer(
        "mathml",
        (lambda self, node: _mathml(self, node, False), None),
        (lambda self, node: _mathml(self, node, True), None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
