"""The package under which repositories' modules are imported, one sub-package per commit.

A class `models.net.Net` of a repository is `weighlock.hub.spaces.<key>.models.net.Net`: two commits, and two
repositories that both have `models`, stand side by side, and none of them meets the program's own `models`. An object
of such a class can be pickled and sent to a worker, which imports it from here, where `weighlock.hub.isolation` finds
it.
"""

from weighlock.hub.isolation import install_finder

install_finder()
