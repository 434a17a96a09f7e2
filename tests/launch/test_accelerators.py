"""One table of accelerators, by the names that Google, SkyPilot and xpk share."""

import pytest

from launch import accelerators

# Google's documentation of each version, and what libtpu and xpk answered.
KNOWN = {
    "v2-8": (4, 1, 8, "v2:2x2"), "v3-32": (16, 4, 32, "v3:4x4"), "v4-8": (4, 1, 4, "v4:2x2x1"),
    "v4-32": (16, 4, 16, "v4:2x2x4"), "v5litepod-1": (1, 1, 1, "v5e:1x1"), "v5litepod-8": (8, 1, 8, "v5e:2x4"),
    "v5litepod-16": (16, 4, 16, "v5e:4x4"), "v5litepod-256": (256, 64, 256, "v5e:16x16"),
    "v5p-8": (4, 1, 4, "v5p:2x2x1"), "v5p-16": (8, 2, 8, "v5p:2x2x2"), "v6e-4": (4, 1, 4, "v6e:2x2"),
    "v6e-16": (16, 4, 16, "v6e:4x4"), "tpu7x-2": (1, 1, 2, "tpu7x:1x1x1"), "tpu7x-16": (8, 2, 16, "tpu7x:2x2x2"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_chips_hosts_devices_and_topology(name):
    made = accelerators.tpu(name)
    assert (made.chips, made.vms, made.devices, made.topology) == KNOWN[name]


def test_every_slice_is_whole():
    for name in accelerators.names():
        made = accelerators.tpu(name)
        assert made.devices % made.vms == 0
        assert made.chips % made.vms == 0
        assert made.engines
        assert bool(made.runtime) == ("gcloud" in made.engines)


def test_v5e_has_its_own_image_and_tpu7x_has_none():
    assert accelerators.tpu("v5litepod-8").runtime == "v2-alpha-tpuv5-lite"
    assert accelerators.tpu("v5p-8").runtime == "v2-alpha-tpuv5"
    assert accelerators.tpu("tpu7x-8").engines == ("xpk",)


@pytest.mark.parametrize(("name", "near"), [("v5e-16", "v5litepod-16"), ("v5litepod-17", "v5litepod-1"),
                                            ("tpu-v6e-8", "v6e-8"), ("v6-8", "v6e-8"), ("V4-8", "v4-8")])
def test_an_unknown_tpu_comes_with_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"--tpu={name}: no TPU of that name; did you mean {near}"):
        accelerators.tpu(name)


@pytest.mark.parametrize(("text", "said"), [("H100", "such as H100:8"), ("h100:8", "did you mean H100:8"),
                                            ("H100:0", "such as H100:8"), ("banana:8", "There are H100")])
def test_a_gpu_is_a_name_and_a_number(text, said):
    with pytest.raises(ValueError, match=said):
        accelerators.gpu(text)
    assert accelerators.gpu("H100:8").engines == ("sky", "xpk")
    assert accelerators.gpu("L4:1").engines == ("sky",)
