"""A corpus of hostile, damaged and harmless files, made by these scripts: nothing in it does harm if it is run.

`writers` spells pickles and archives by hand; `hostile` and `benign` are tables of cases by name. Each hostile case
says which rules a scan must report. ``python -m tests.corpus FOLDER`` writes all of them into a folder.
"""
