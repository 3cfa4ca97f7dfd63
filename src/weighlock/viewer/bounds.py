"""How much one request may ask for: THE table of the viewer's bounds, each with its reason."""

from typing import Final

# A table draws some dozens of rows, and asks for some screens ahead.
MOST_ROWS: Final = 500
DEFAULT_ROWS: Final = 200
# The bar of a file's bytes wants many stretches, which are small.
MOST_STRETCHES: Final = 2000
# What a page can show of numbers; `weighlock show` stops there as well.
MOST_CELLS: Final = 10_000
# A spreadsheet has a million rows, and a browser holds the file in memory before it saves it.
MOST_CSV_CELLS: Final = 1_000_000
MOST_NPY_BYTES: Final = 4 << 30
# The pixels of a screen, in each direction.
MOST_PIXELS: Final = 2048
MOST_BINS: Final = 1000
# A name that people type; each wildcard of a glob multiplies the ways in which it may fit.
MOST_SEARCHED: Final = 400
MOST_WILDCARDS: Final = 8
# A path of some dozens of names fits, three bytes for each that a browser escapes; `serving` bounds whole heads.
MOST_QUERY_BYTES: Final = 16 << 10
# A page repeats a name's path in every row below it: a megabyte of name, with 500 rows, would be half a gigabyte.
MOST_PATH: Final = 4 << 10
# Work that reads tensors is bounded by the disk: more at once only makes each slower, and takes memory.
HEAVY_AT_ONCE: Final = 2
LIGHT_AT_ONCE: Final = 4
MOST_WAITING: Final = 32
MOST_CONNECTIONS: Final = 128
# Connections without a whole request are looked at so often, and closed the second time.
HEAD_SECONDS: Final = 5.0
# Results that are kept, because a page asks again for what it has just shown.
KEPT_FIGURES: Final = 256
KEPT_ORDERS: Final = 16
KEPT_DIFFS: Final = 2
# An address that could not be reached is tried again, but not by every request.
RETRY_SECONDS: Final = 5.0
# Plain values beside tensors: a pickle of a megabyte may hold a million of them.
MOST_VALUES: Final = 20_000
# A record that is compressed has no parts: it is held whole while a heat map of it is made.
MOST_WHOLE_BYTES: Final = 1 << 30
