"""Writes small weight files as torch writes them: `python tests/golden/make_foreign.py` in an environment with torch.

`module.pkl` is a module under EDM's `persistence`, which pickles its class as source text beside its state; the form
is written here from its description, since no package has it.
"""

import collections
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent / "foreign"


def persistence() -> types.ModuleType:
    """A stand-in for EDM's `torch_utils.persistence`, in as far as its pickles show."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("it is read without torch")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules["torch_utils"], sys.modules["torch_utils.persistence"] = types.ModuleType("torch_utils"), module
    return module


class EasyDict(dict):
    """Of `dnnlib.util`."""


def persistent(cls):
    """A class whose objects pickle as EDM's do."""
    class Persistent(cls):
        def __reduce__(self):
            state = dict(self.__dict__)
            state.pop("_parameters_hook", None)
            meta = EasyDict(type="class", version=6, module_src="raise SystemExit('never run')",
                            class_name=cls.__name__, state=state)
            return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)
    return Persistent


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.register_parameter("bias", None)
        self.register_buffer("kept", torch.tensor([1, 2], dtype=torch.int64))
        self.register_buffer("passing", torch.ones(3), persistent=False)


class Net(torch.nn.Module):
    def __init__(self, width, **kwargs):
        super().__init__()
        self._init_args, self._init_kwargs = (), {"width": width, **kwargs}
        self.width = np.float64(width)
        self.freqs = np.arange(3.0)
        self.layers = torch.nn.ModuleDict({"first": persistent(Linear)()})


def tensors():
    whole = torch.arange(24.0).reshape(4, 6)
    return collections.OrderedDict(
        whole=whole, turned=whole.T, part=whole[1:3, ::2], scalar=torch.tensor(7.0), empty=torch.zeros(0, 3),
        half=whole[0].half(), brain=whole[0].bfloat16(), double=whole[0].double(), long=torch.arange(3),
        flags=torch.tensor([True, False]), parameter=torch.nn.Parameter(whole[0]))


def main():
    HERE.mkdir(exist_ok=True)
    persistence()
    dnnlib = types.ModuleType("dnnlib.util")
    dnnlib.EasyDict, EasyDict.__module__ = EasyDict, "dnnlib.util"
    sys.modules["dnnlib"], sys.modules["dnnlib.util"] = types.ModuleType("dnnlib"), dnnlib
    model = {"state_dict": tensors(), "step": 12, "note": "é"}
    torch.save(model, HERE / "zip.pt")
    torch.save(model, HERE / "legacy.ckpt", _use_new_zipfile_serialization=False)
    plain = {name: value.detach().contiguous().clone() for name, value in tensors().items()}
    from safetensors.torch import save_file
    save_file(plain, HERE / "plain.safetensors", metadata={"format": "pt"})
    with open(HERE / "module.pkl", "wb") as stream:
        pickle.dump({"ema": persistent(Net)(16, heads=2), "loss_fn": None}, stream)


if __name__ == "__main__":
    main()
