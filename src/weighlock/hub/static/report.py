"""The static report on a repository: data, without any work."""

import dataclasses

__all__ = ["Effect", "Entry", "Report", "Url"]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One callable of a hubconf.

    Attributes
    ----------
    name : str
    kind : str
        ``def`` and ``class`` are defined in the hubconf; ``reexport`` is imported from the repository's own modules;
        ``partial`` is a `functools.partial`; ``alias`` another name of something; ``generated`` made by code that
        could be followed; ``external`` imported from a package outside of the repository.
    signature : str or None
        ``(pretrained=False, **kwargs)``; of a partial what is left to give.
    doc : str or None
        The docstring as it stands there; of a partial its function's.
    file : str or None
        Below the root; where it is defined.
    line : int or None
    literal : bool
        Whether the docstring is what stands there: no decorator and no statement may have changed it.
    """

    name: str
    kind: str
    signature: str | None = None
    doc: str | None = None
    file: str | None = None
    line: int | None = None
    literal: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Url:
    """One URL in the text of the code that seems to name a file.

    Attributes
    ----------
    url : str
    file : str
    line : int
    https : bool
    hashed : bool
        Whether its name holds the beginning of a SHA-256: ``name-<8 or more digits>.ext``.
    """

    url: str
    file: str
    line: int
    https: bool
    hashed: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Effect:
    """One thing that happens as soon as the hubconf is imported: ``starts a process: subprocess.run``."""

    what: str
    file: str
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What the syntax tree tells of a repository.

    Attributes
    ----------
    root : str
    entries : tuple of Entry
        In alphabetical order, as `torch.hub.list` gives them.
    dependencies : tuple of str or None
        The packages that the hubconf declares; None where it declares none.
    undeclared : tuple of str
        Packages that the reachable code imports without declaring them.
    urls : tuple of Url
    effects : tuple of Effect
    complete : bool
        Whether the list of entries is all there is.
    reasons : tuple of str
        Why not.
    compatibility : tuple of str
        Why the repository needs its modules under their plain names.
    roots : tuple of str
        Folders below the root that it also imports from.
    doc : str or None
        The hubconf's own docstring.
    """

    root: str
    entries: tuple[Entry, ...] = ()
    dependencies: tuple[str, ...] | None = None
    undeclared: tuple[str, ...] = ()
    urls: tuple[Url, ...] = ()
    effects: tuple[Effect, ...] = ()
    complete: bool = True
    reasons: tuple[str, ...] = ()
    compatibility: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    doc: str | None = None
