"""The torch side of `benchmarks.evaluation`, run by an interpreter that has the tools (see tests/golden/make_fid.py).

Command: PEER_PYTHON benchmarks/evaluation_peers.py FOLDER THREADS   (prints seconds for each tool, as JSON)

FOLDER has `images/`; `weights.pth` is written there where there is none: numbers drawn from a seed, as large as the
published file's.  Every tool makes features and moments of the same images, in float32, 64 a call, in this process.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "golden")]

import make_fid  # noqa: E402  - before the tools, since it makes them importable
import torch  # noqa: E402
from cleanfid import fid as cleanfid  # noqa: E402
from metrics import inputs  # noqa: E402
from pytorch_fid import fid_score  # noqa: E402
from pytorch_fid import inception as pytorch_fid  # noqa: E402
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402
from torch_fidelity.utils import extract_featuresdict_from_input_id_cached  # noqa: E402

BATCH = 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def weights(folder: Path) -> Path:
    """Returns the file, which is written where it is not there."""
    path = folder / "weights.pth"
    if not path.exists():
        torch.save({key: torch.from_numpy(value) for key, value in inputs.weights(make_fid.shapes()).items()}, path)
    return path


def tools(folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Returns what gives the mean of features of all images, by the tool's name."""
    images, path = str(folder / "images"), weights(folder)
    for module in (pytorch_fid, make_fid.cleanfid_inception):
        module.load_state_dict_from_url = lambda *given, **more: torch.load(path)
    plain = pytorch_fid.InceptionV3([3]).eval().to(DEVICE)
    single = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path)).eval().to(DEVICE)
    layers = [module for name, module in single.named_children() if name != "fc"]

    def clean(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = (x - 128) / 128
            for module in layers:
                x = module(x)
            return x.flatten(1)

    def by_fidelity() -> np.ndarray:
        found = extract_featuresdict_from_input_id_cached(
            1, single, input1=images, cuda=DEVICE == "cuda", batch_size=BATCH, verbose=False, cache=False,
            save_cpu_ram=True)
        features = found["2048"].numpy()
        np.cov(features, rowvar=False)
        return features.mean(0)

    def by_pytorch_fid() -> np.ndarray:
        return fid_score.compute_statistics_of_path(images, plain, BATCH, 2048, DEVICE, 0)[0]

    def by_cleanfid() -> np.ndarray:
        features = cleanfid.get_folder_features(images, model=clean, num_workers=0, batch_size=BATCH, mode="clean",
                                                device=torch.device(DEVICE), verbose=False)
        np.cov(features, rowvar=False)
        return features.mean(0)

    return {"torch-fidelity": by_fidelity, "pytorch-fid": by_pytorch_fid, "clean-fid": by_cleanfid}


def main() -> None:
    """Times every tool once; the first batch is not in it."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    with torch.no_grad():
        every = tools(folder)
        FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(folder / "weights.pth"))(
            torch.zeros((2, 3, 32, 32), dtype=torch.uint8))
        seconds = {}
        for name, tool in every.items():
            begun = time.perf_counter()
            tool()
            seconds[name] = time.perf_counter() - begun
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
