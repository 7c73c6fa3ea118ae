"""The site: `make docs`. Notebooks are shown with their stored outputs, or executed with EMALIGN_DOCS_EXECUTE=1."""

import base64
import json
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

from emalign_jax import __version__  # noqa: E402

project = "emalign_jax"
author = "The emalign_jax developers"
copyright = "the emalign_jax developers, Apache 2.0"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "extension"]
exclude_patterns = ["_build", "Thumbs.db"]
nitpicky = True
default_role = "code"
smartquotes_action = "D"  # dashes alone: "..." and quotes are code as often as not

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
nb_execution_mode = "force" if os.environ.get("EMALIGN_DOCS_EXECUTE") == "1" else "off"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True

autodoc_typehints = "none"  # docstrings say shapes and units
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_custom_sections = [("Declarations of a class", "params_style")]

html_theme = "pydata_sphinx_theme"
html_title = "emalign_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("names.js", {"defer": "defer"})]
html_math_renderer = "mathml"
html_sidebars = {page: [] for page in ("index", "tour", "concepts")}  # they stand alone
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "emalign_jax"},
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "icon_links": [
        {"name": "Source code", "url": "https://github.com/emalign/emalign_jax", "icon": "fa-brands fa-github"}
    ],
    "footer_start": ["copyright"],
    "footer_end": [],
}

# `make docs` builds this page first, where the program that it carries can be had
if (HERE / "_build" / "explorer.html").exists():
    html_extra_path = ["_build/explorer.html"]
    tags.add("explorer")

# Sphinx reads files below docs/ only: the notebooks come as copies, which git ignores, each with its first figure
shutil.rmtree(HERE / "gallery", ignore_errors=True)
(HERE / "gallery").mkdir()
for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
    text = notebook.read_text("utf-8").replace("](../docs/", "](../")
    (HERE / "gallery" / notebook.name).write_text(text, "utf-8")
    outputs = [out.get("data", {}) for cell in json.loads(text)["cells"] for out in cell.get("outputs", [])]
    figure = next(data["image/png"] for data in outputs if "image/png" in data)  # the first, for the gallery
    (HERE / "gallery" / f"{notebook.stem}.png").write_bytes(base64.b64decode(figure))
nitpick_ignore_regex = [("py:.*", r"(?!emalign_jax\.).*")]  # what other packages document
