"""How Sphinx builds the documentation. `make docs` treats every warning as an error."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "Weighlock"
author = "The Weighlock developers"
project_copyright = "The Weighlock developers"
version = release = installed_version("weighlock")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_default_options = {"show-inheritance": True}
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"Weighlock {release}"

# Attributes are listed in the class, not described a second time beside the properties of the same name.
napoleon_use_ivar = True
