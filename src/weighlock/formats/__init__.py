"""A file and what it holds: named records and pickle streams. One module per format; none knows another.

`detect` is the only list of formats; `reading` is what they share.
"""
