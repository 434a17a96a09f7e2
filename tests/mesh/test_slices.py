"""Data alone crosses slices; fsdp and tensor stay inside one."""

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import networks_table
from jaxdiff import experiment, mesh, overrides

ROOT = Path(__file__).resolve().parents[2]
LIBTPU = Path(sys.prefix) / "tpu"
needs_libtpu = pytest.mark.skipif(
    not ((LIBTPU / "libtpu").is_dir() or importlib.util.find_spec("libtpu")), reason="libtpu is not here")


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh looks at."""

    id: int
    process_index: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def fleet(slices, each=4, processes=2):
    """Devices of several slices, in no order."""
    devices = [Device(index * each + i, index * processes + i * processes // each, index)
               for index in range(slices) for i in range(each)]
    return [devices[i] for i in np.random.default_rng(0).permutation(len(devices))]


def slices_of(made):
    return np.vectorize(lambda device: device.slice_index)(made.devices)


@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(2, 4, 1), (4, 1, 2), (2, 2, 2), (8, 1, 1), (-1, 4, 1)])
def test_fsdp_and_tensor_stay_inside_a_slice(data, fsdp, tensor):
    made = mesh.make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=fleet(2))
    lies = slices_of(made)
    assert made.size == 8 and set(lies.ravel()) == {0, 1}
    assert (lies == lies[:, :1, :1]).all()
    assert (np.diff(lies[:, 0, 0]) >= 0).all()  # slice after slice along data


def test_data_that_does_not_divide_over_slices_is_refused():
    with pytest.raises(ValueError, match=r"mesh data 1 x fsdp 8 x tensor 1: data must be a multiple of the 2 slices, "
                                         r"which fsdp and tensor do not cross, such as data 2 \(slices=1 "):
        mesh.make_mesh(data=1, fsdp=-1, devices=fleet(2))
    assert dict(mesh.make_mesh(data=1, fsdp=-1, slices=1, devices=fleet(2)).shape)["fsdp"] == 8  # where one means it


@pytest.mark.parametrize(("slices", "devices", "words"), [
    (3, fleet(2), "slices=3: the devices lie in 2; it may be 2 or 1"),
    (3, fleet(1, each=8), "slices=3 does not divide 8 devices"),
    (0, fleet(1, each=8), "slices=0 does not divide 8 devices"),
])
def test_slices_that_are_not_there_are_refused(slices, devices, words):
    with pytest.raises(ValueError, match=words):
        mesh.make_mesh(slices=slices, devices=devices)


def test_devices_that_say_nothing_are_parted_in_the_order_of_processes():
    devices = [dataclasses.replace(device, slice_index=0) for device in fleet(2)]
    made = mesh.make_mesh(data=2, fsdp=4, slices=2, devices=devices)
    processes = np.vectorize(lambda device: device.process_index)(made.devices)[:, :, 0]
    assert {*processes[0]} == {0, 1} and {*processes[1]} == {2, 3}


def test_a_config_may_say_into_how_many_slices_and_need_not():
    config = overrides.load(str(ROOT / "configs" / "digits.py") + ":tiny")
    assert "slices" not in config.mesh or config.mesh.slices is None
    change = lambda **more: overrides.apply(config, [("mesh", repr(config.mesh.to_dict() | more))])
    assert experiment.meshed(change(slices=1)).size == jax.device_count()
    with pytest.raises(ValueError, match="slices=3 does not divide"):
        experiment.meshed(change(slices=3))
    with pytest.raises(ValueError, match="config.mesh has no 'slice'; did you mean 'slices'"):
        experiment.meshed(change(slice=2))
    with pytest.raises(ValueError, match="config.mesh.zero must be True or False, got 'yes'"):
        experiment.meshed(change(zero="yes"))


@needs_libtpu
def test_on_two_slices_of_tpus_it_is_jaxs_hybrid_mesh(run_python):
    paths = [str(ROOT), *([str(LIBTPU)] if LIBTPU.is_dir() else [])]
    run_python("""
        import numpy as np
        from jax.experimental import mesh_utils, topologies
        from jaxdiff import mesh
        devices = topologies.get_topology_desc("v5e:4x4", "tpu", num_slices=2).devices
        for data, fsdp, tensor in ((2, 16, 1), (4, 8, 1), (2, 4, 4), (32, 1, 1)):
            made = mesh.make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=devices)
            hybrid = mesh_utils.create_hybrid_device_mesh((data // 2, fsdp, tensor), (2, 1, 1), devices,
                                                          allow_split_physical_axes=True)
            assert (made.devices == hybrid).all()
        assert mesh.make_mesh(fsdp=32, data=1, slices=1, devices=devices).size == 32
    """, env={**networks_table.ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)})
