"""Images as tokens, a token a square patch."""

from jaxdiff.protocols import Array

__all__ = ["patchify", "unpatchify"]


def patchify(x: Array, size: int) -> Array:
    """Cuts images into patches, row by row, channels last in each.

    A dense layer on the result is the strided convolution of vision transformers.

    Args:
      x: [b, h, w, c].
      size: of a patch, a divisor of h and w.

    Returns:
      [b, (h/size)(w/size), size*size*c].

    Raises:
      ValueError: an image that does not divide into patches.
    """
    b, h, w, c = x.shape
    if size < 1 or h % size or w % size:
        raise ValueError(f"an image of {h}x{w} does not divide into patches of {size}x{size}")
    x = x.reshape(b, h // size, size, w // size, size, c).swapaxes(2, 3)  # [b, rows, columns, size, size, c]
    return x.reshape(b, (h // size) * (w // size), size * size * c)


def unpatchify(x: Array, size: int, height: int, width: int) -> Array:
    """Puts patches together: the inverse of `patchify`.

    Args:
      x: [b, n, size*size*c].
      size: of a patch.
      height, width: of the image, with n = (height/size)(width/size).

    Returns:
      [b, height, width, c].
    """
    b, _, channels = x.shape
    x = x.reshape(b, height // size, width // size, size, size, channels // size**2).swapaxes(2, 3)
    return x.reshape(b, height, width, channels // size**2)
