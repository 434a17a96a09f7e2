"""Where arrays lie: a mesh `(data, fsdp, tensor)`, the rows a process holds, shardings by path.

One device is a mesh of one.  The batch is split over data and fsdp; a rule `(pattern, spec)` says how
parameters whose path matches are split, `("enc_.*/kernel", (None, None, None, "fsdp"))`.
"""

from jaxdiff.mesh.devices import AXES, make_mesh
from jaxdiff.mesh.placement import batched, put, replicated, rows
from jaxdiff.mesh.rules import follow, specs, spread
from jaxdiff.mesh.tables import overview, table

__all__ = [
    "AXES", "batched", "follow", "make_mesh", "overview", "put", "replicated", "rows", "specs", "spread", "table",
]
