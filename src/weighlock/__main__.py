"""``python -m weighlock``: the command line."""

from weighlock.cli import main

main()
