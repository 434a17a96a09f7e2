"""Sources of examples, and the batches drawn from them.

A source is either a dict of equally long numpy columns (`{"image": uint8 [n, h, w, c],
"label": int32 [n]}`, `{"x0": float32 [n, 2]}`), or any object with `__len__` and
`__getitem__(i) -> dict of numpy`, whose examples are decoded when they are needed, in
threads.  `batches(source, batch=...)` reads either one; what becomes of a batch on the
device (`prepare`) is in `jaxdiff.data.pixels`.
"""

from jaxdiff.data import pixels
from jaxdiff.data.catalogue import tfds
from jaxdiff.data.embedded import MIXTURE, digits, mixture, mock
from jaxdiff.data.files import folder
from jaxdiff.data.order import batches, fingerprint

__all__ = ["MIXTURE", "batches", "digits", "fingerprint", "folder", "mixture", "mock", "pixels", "tfds"]
