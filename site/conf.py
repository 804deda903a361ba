"""The site (`make docs`): the pages of docs/, the notebooks, and a reference made of the docstrings."""

from __future__ import annotations

import os

import nif_lab

project = "nif_lab"
author = "the nif_lab developers"
copyright = f"2026, {author}"  # noqa: A001 - the name that Sphinx reads
version = release = nif_lab.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
# The source is the repository itself, so that a link works here as it does in a checkout.
root_doc = "site/index"
include_patterns = ["site/*.md", "docs/*.md", "notebooks/0*.ipynb", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]

html_theme = "furo"
html_title = "nif_lab"
html_theme_options = {"navigation_with_keys": True}
templates_path = ["_templates"]
html_additional_pages = {"index": "front.html"}
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
# A page asks no other host for anything: no fonts, no scripts.
nb_ipywidgets_js: dict[str, object] = {}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

# Notebooks run when the site is made. `off` keeps the outputs that they have: for a quick look at the pages.
nb_execution_mode = os.environ.get("NIF_LAB_DOCS_RUN", "force")
nb_execution_timeout = 600
nb_execution_excludepatterns = ["*/08_devices.ipynb"]  # needs a GPU: its outputs are from a machine with one
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types, with shapes and units
napoleon_google_docstring = False
napoleon_use_ivar = True
