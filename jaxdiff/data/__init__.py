"""Sources of examples, and the batches drawn from them.

A source is either a dict of equally long numpy columns (`{"image": uint8 [n, h, w, c],
"label": int32 [n]}`, `{"x0": float32 [n, 2]}`), or any object with `__len__` and
`__getitem__(i) -> dict of numpy`, whose examples are decoded when they are needed, in
threads.  `batches(source, batch=...)` reads either one; what becomes of a batch on the
device (`prepare`) is in `jaxdiff.data.pixels`.
"""

from jaxdiff.data import pixels, tokens
from jaxdiff.data.archives import shards
from jaxdiff.data.captions import captioned, encoded
from jaxdiff.data.catalogue import tfds
from jaxdiff.data.embedded import MIXTURE, digits, mixture, mock
from jaxdiff.data.files import folder
from jaxdiff.data.moments import latents, write_latents
from jaxdiff.data.order import ahead, batches, fingerprint
from jaxdiff.data.elsewhere import unseen

__all__ = [
    "MIXTURE", "ahead", "batches", "captioned", "digits", "encoded", "fingerprint", "folder", "latents", "mixture",
    "mock", "pixels", "shards", "tfds", "tokens", "unseen", "write_latents",
]
