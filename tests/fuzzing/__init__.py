"""Fuzzing: damaged and hostile files made by the million, and what must hold for each of them.

`mutations` changes a file by its structure, with one number as the whole of its chance; `seeds` has the files that are
changed; `targets` says what is done with the result and what must hold; `running` does it fast and counts. Nothing here
needs PyTorch, except `differential`, which holds Weighlock beside it, or atheris, except `atheris_target`.

A finding is (target, file, numbers): ``python -m tests.fuzzing --again TARGET FILE@NUMBER@NUMBER`` makes it again.
"""
