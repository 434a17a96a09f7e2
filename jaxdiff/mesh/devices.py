"""The mesh over devices, in one slice or in several.

Within a slice devices exchange data fast, between slices by a network some ten times slower.  Hence data alone
crosses slices, where a step sends each gradient once; fsdp and tensor, which send weights and activations in every
layer, stay inside (hybrid sharded data parallelism).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import devices as all_devices
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

__all__ = ["AXES", "make_mesh"]

AXES = ("data", "fsdp", "tensor")


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1, slices: int | None = None,
              devices: Any = None) -> Mesh:
    """Returns a mesh over all devices (or those given), axes of type Auto.

    Args:
      data, fsdp, tensor: sizes; one of them may be -1, for what is left.
      slices: None takes what the devices say of themselves.  Of devices that say nothing, as many equal parts in
        the order of processes; 1 lets all axes cross slices.
      devices: a sequence of devices.

    Raises:
      ValueError: sizes that do not multiply to the number of devices, or data that does not divide over slices.
    """
    devices = list(all_devices() if devices is None else devices)
    sizes = _sizes({"data": data, "fsdp": fsdp, "tensor": tensor}, len(devices))
    groups = _groups(devices, slices)
    if sizes["data"] % len(groups) and slices != 1:
        raise ValueError(f"mesh {_text(sizes)}: data must be a multiple of the {len(groups)} slices, which fsdp and "
                         f"tensor do not cross, such as data {len(groups)} (slices=1 lets all axes cross)")
    return Mesh(_grid(tuple(sizes.values()), groups), AXES, axis_types=(AxisType.Auto,) * 3)


def _sizes(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Returns the sizes with -1 worked out."""
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if any(size < 1 and size != -1 for size in sizes.values()) or len(free) > 1:
        raise ValueError(f"mesh {_text(sizes)}: sizes are at least 1, and at most one is -1 (whatever is left)")
    found = sizes | ({free[0]: count // fixed} if free and count % fixed == 0 else {})
    if int(np.prod(list(found.values()))) != count:
        raise ValueError(f"mesh {_text(sizes)} does not cover {count} devices")
    return found


def _text(sizes: dict[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items())


def _groups(devices: Sequence[Any], slices: int | None) -> list[list]:
    """Returns the devices of each slice."""
    told = sorted({getattr(device, "slice_index", 0) for device in devices})
    if slices in (None, 1, len(told)):
        return [[device for device in devices if getattr(device, "slice_index", 0) == index] for index in told]
    if len(told) > 1:
        raise ValueError(f"slices={slices}: the devices lie in {len(told)}; it may be {len(told)} or 1")
    if slices < 1 or len(devices) % slices:
        raise ValueError(f"slices={slices} does not divide {len(devices)} devices")
    ordered, size = sorted(devices, key=lambda device: (device.process_index, device.id)), len(devices) // slices
    return [ordered[start:start + size] for start in range(0, len(devices), size)]


def _grid(sizes: tuple[int, ...], groups: list[list]) -> np.ndarray:
    """Returns the devices [data, fsdp, tensor], slice after slice along data.

    What `mesh_utils.create_hybrid_device_mesh` makes of slices that devices name.  `jax.make_mesh` refuses these, and
    common shapes of one slice; this may split a physical axis.
    """
    crossed = sizes[0] % len(groups) > 0
    inside = (len(groups[0]),) if crossed else (sizes[0] // len(groups), *sizes[1:])
    parts = [mesh_utils.create_device_mesh(inside, group, allow_split_physical_axes=True) for group in groups]
    return np.concatenate(parts).reshape(sizes)
