"""The one table of accelerators is that of xpk and of libtpu."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch import accelerators

pytestmark = pytest.mark.engines
PYTHON = Path(os.environ.get("ENGINES", ".engines")).absolute() / "xpk" / "bin" / "python"
LIBTPU = Path(sys.prefix) / "tpu"
XPK = """
import json
from xpk.core.system_characteristics import UserFacingNameToSystemCharacteristics as known
print(json.dumps({name: [each.topology, each.vms_per_slice, each.chips_per_vm] for name, each in known.items()}))
"""
COUNT = """
import json, sys
from jax.experimental import topologies
out = {}
for name, shape, bounds in json.loads(sys.argv[1]):
    more = {"chips_per_host_bounds": bounds} if bounds else {}
    out[name] = len(topologies.get_topology_desc(shape, "tpu", **more).devices)
print(json.dumps(out))
"""


@pytest.mark.skipif(shutil.which(str(PYTHON)) is None, reason=f"{PYTHON} is not there; make test-more installs it")
def test_xpk_has_the_same_slices_with_the_same_hosts():
    told = json.loads(subprocess.run([str(PYTHON), "-c", XPK], capture_output=True, text=True, check=True).stdout)
    compared = 0
    for name in accelerators.names():
        made = accelerators.tpu(name)
        assert ("xpk" in made.engines) == (name in told), name
        if name in told:
            topology, hosts, chips = told[name]
            assert made.topology.partition(":")[2] == topology, name
            assert made.chips == math.prod(map(int, topology.split("x"))), name
            # Eight chips of v5e or v6e are two hosts to GKE and one to the Cloud TPU API.
            assert made.vms == hosts or (made.chips, made.vms, hosts, chips) == (8, 1, 2, 4), name
            compared += 1
    assert compared > 30
    for name, base in accelerators.GPUS.items():
        assert not base or f"{base}-8" in told, name


@pytest.mark.skipif(not (LIBTPU / "libtpu").is_dir() and importlib.util.find_spec("libtpu") is None,
                    reason="libtpu is not here; make test installs it where there is one")
def test_libtpu_has_as_many_devices():
    # Of v4 it knows cores, which jax joins on real chips; of large slices it takes long to tell.
    asked = [made for made in map(accelerators.tpu, accelerators.names())
             if made.chips <= 64 and not made.name.startswith(("v2", "v4"))]
    words = json.dumps([[made.name, made.topology, list(made.bounds)] for made in asked])
    env = {**os.environ, "PYTHONPATH": str(LIBTPU), "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1",
           "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0",
           "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run([sys.executable, "-c", COUNT, words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {made.name: made.devices for made in asked}
    assert len(asked) > 20
