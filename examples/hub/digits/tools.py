"""What goes with the network: digits as pixels, and pixels as a digit."""

import numpy as np

DIGITS = (31599, 11415, 29671, 29647, 23497, 31183, 31215, 29257, 31727, 31695)
"""The digits 0 to 9, one bit for each pixel."""


def show(digit):
    """Return the 15 pixels of a digit."""
    return np.array([(DIGITS[digit] >> shift) & 1 for shift in range(14, -1, -1)], "float32")


def read(model, pixels):
    """Return the digit that 15 pixels show."""
    return int(model(pixels[None]).argmax())
