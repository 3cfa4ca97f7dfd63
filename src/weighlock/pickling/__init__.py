"""The restricted pickle machine: bytes in, inert objects out. It knows no tensor, no file and no torch.

`opcodes` is the one table of opcodes, `decoder` reads their arguments, `unpickler` runs them against an `Allowlist`
of known globals; nothing else is ever called. `python_globals` is the part of the table that is plain Python data,
`user_globals` what the user named. `pickler` writes. `trusted` is the only place that runs the standard pickle.
"""
