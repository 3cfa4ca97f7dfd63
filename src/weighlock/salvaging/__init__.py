"""Saving what is whole in a damaged checkpoint: `weighlock.salvage`.

A tensor is kept where its bytes can be shown to be the ones that were written, and named as lost where they cannot. The
pickle is run as a mere description (every name inert, every call a `Stub`), lost tensors are taken out of it, and it is
written again as it stood: what is kept is rebuilt by the very calls that the file had.
"""
