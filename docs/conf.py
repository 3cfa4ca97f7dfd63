"""How Sphinx builds the documentation. `make docs` treats every warning as an error."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from sphinx.domains.python import PythonDomain

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.domains.python import ObjectEntry
    from sphinx.environment import BuildEnvironment

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


class TypesAreNoAttributes(PythonDomain):
    """The words of a type (`path`, `object`, `shape`) never link to some class's attribute of that name.

    Sphinx takes a type that it does not find for an alias, and then for any attribute whose full name ends that way.
    """

    def find_obj(
        self,
        env: BuildEnvironment,
        modname: str,
        classname: str,
        name: str,
        type: str | None,
        searchmode: int = 0,
    ) -> list[tuple[str, ObjectEntry]]:
        """Find what `name` means; by the end of its name alone, no attribute."""
        if type == "attr" and searchmode == 1:
            return []
        return super().find_obj(env, modname, classname, name, type, searchmode)


def setup(app: Sphinx) -> None:
    """Put the domain in the place of Sphinx's own."""
    app.add_domain(TypesAreNoAttributes, override=True)
