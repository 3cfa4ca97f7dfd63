"""Readers of digits on a display of five rows of three pixels."""

from network import Network as _Network

dependencies = ["numpy", "weighlock"]

_WEIGHTS = "https://github.com/our-group/digits/releases/download/v1/digits-1fbec7d6.pt"


def digits(pretrained=True, progress=True):
    """Tell which digit a display shows, also where one pixel is wrong.

    pretrained (bool): with the weights of the release, else with zeros
    progress (bool): show a bar while they are fetched

    The model is called with pixels of shape (samples, 15), and returns scores of shape (samples, 10).
    """
    import weighlock

    model = _Network()
    if pretrained:
        weights = weighlock.hub.load_state_dict_from_url(_WEIGHTS, progress=progress, check_hash=True)
        weighlock.load_state_dict(model, weights)
    return model


def digits_and_tools(pretrained=True):
    """Return the model of `digits`, and a tuple of functions: (show, read).

    show(digit) gives the 15 pixels of a digit; read(model, pixels) gives the digit that pixels show.
    """
    from tools import read, show

    return digits(pretrained), (show, read)
