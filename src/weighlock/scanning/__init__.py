"""Scanning: what loading a file would import, call or exhaust, and whether every byte that matters was understood.

The machine, the tables and the readers are those of the loader (`weighlock.pickling.recording` is its recording mode),
so that there is no second parser to disagree with. Nothing here builds a tensor, imports a name out of a file, or runs
anything. `rules` is the table of what can be found, `dangers` that of dangerous globals.
"""

from weighlock.scanning.report import FileReport, Finding, Gap, GlobalUse, ScanReport
from weighlock.scanning.rules import RULES, SEVERITIES, Rule
from weighlock.scanning.scan import scan

__all__ = ["RULES", "SEVERITIES", "FileReport", "Finding", "Gap", "GlobalUse", "Rule", "ScanReport", "scan"]
