"""Prepared data sets of TensorFlow Datasets."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from jaxdiff import data


class JaxdiffTiny(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Twenty images that say their number, as PNG bytes: arrays would load TensorFlow to encode them."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
        features = tensorflow_datasets.features
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=features.FeaturesDict({
            "picture": features.Image(shape=(4, 6, 1)), "kind": features.ClassLabel(num_classes=3),
            "name": features.Text(), "heat": features.Tensor(shape=(4, 6, 1), dtype=np.float32)}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(6)}

    def _generate_examples(self, count):
        for number in range(count):
            file = io.BytesIO()
            Image.fromarray(np.full((4, 6), number, np.uint8)).save(file, "PNG")
            yield number, {"picture": file.getvalue(), "kind": number % 3, "name": str(number),
                           "heat": np.zeros((4, 6, 1), np.float32)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    tensorflow_datasets.disable_progress_bar()
    root = tmp_path_factory.mktemp("tfds")
    JaxdiffTiny(data_dir=root, file_format="array_record").download_and_prepare()
    return str(root)


FEATURES = {"image": "picture", "label": "kind"}


def test_a_data_set_is_read_by_name_and_by_path(data_dir):
    named = data.tfds("jaxdiff_tiny", data_dir=data_dir, **FEATURES)
    placed = data.tfds(f"{data_dir}/jaxdiff_tiny/1.0.0", **FEATURES)
    assert len(named) == len(placed) == 20 and set(named[0]) == {"image", "label"}
    numbers = [int(example["image"][0, 0, 0]) for example in map(named.__getitem__, range(20))]
    assert sorted(numbers) == list(range(20))  # TFDS shuffles them when it prepares
    labels = [int(example["label"]) for example in map(placed.__getitem__, range(20))]
    assert labels == [number % 3 for number in numbers]
    batch = next(data.batches(named, batch=32)(0))
    assert batch["image"].shape == (32, 4, 6, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0] % 3, batch["label"])


def test_splits_can_be_cut_and_added(data_dir):
    lengths = {split: len(data.tfds("jaxdiff_tiny", split=split, data_dir=data_dir, **FEATURES))
               for split in ("test", "train[:50%]", "train[2:7]", "train+test")}
    assert lengths == {"test": 6, "train[:50%]": 10, "train[2:7]": 5, "train+test": 26}


def test_labels_can_be_left_out_and_sizes_changed(data_dir):
    source = data.tfds("jaxdiff_tiny", data_dir=data_dir, image="picture", label="", size=2)
    assert set(source[0]) == {"image"} and source[0]["image"].shape == (2, 2, 1)
    assert len(np.unique(source[0]["image"])) == 1


def test_tensorflow_stays_unloaded(data_dir):
    code = ("import sys; from jaxdiff import data; "
            f"source = data.tfds('jaxdiff_tiny', data_dir={data_dir!r}, image='picture', label='kind'); "
            "next(data.batches(source, batch=4)(0)); print('tensorflow' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split()[-1] == "False"


def test_what_is_not_there(data_dir, tmp_path):
    with pytest.raises(ValueError, match=r"data set 'mnist' is not prepared in '.*/mnist/.*'; where there is internet, "
                                         r"run `tfds build mnist --file_format=array_record --data_dir=DIR`, copy"):
        data.tfds("mnist", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="unknown data set 'jaxdif_tiny': .*; did you mean 'jaxdiff_tiny'"):
        data.tfds("jaxdif_tiny", data_dir=data_dir)
    with pytest.raises(ValueError, match="unknown data set 'qqqq': .*; it may be jaxdiff_tiny$"):
        data.tfds("qqqq", data_dir=data_dir)
    with pytest.raises(ValueError, match=r"no prepared data set .* in '.*tiny'; did you mean '.*1\.0\.0'"):
        data.tfds(f"{data_dir}/jaxdiff_tiny")
    with pytest.raises(ValueError, match=r"has no split 'trian' .*; did you mean 'train'"):
        data.tfds("jaxdiff_tiny", split="trian", data_dir=data_dir, **FEATURES)


def test_features_that_do_not_fit(data_dir):
    with pytest.raises(ValueError, match="has no feature 'pictures'; did you mean 'picture'"):
        data.tfds("jaxdiff_tiny", data_dir=data_dir, image="pictures")
    with pytest.raises(ValueError, match=r"has no feature 'label'; it may be .* \(label='' for none\)"):
        data.tfds("jaxdiff_tiny", data_dir=data_dir, image="picture")
    with pytest.raises(ValueError, match=r"feature 'heat' of .* must be an image, uint8 \[h, w, c\], got float32"):
        data.tfds("jaxdiff_tiny", data_dir=data_dir, image="heat", label="kind")
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        data.tfds("jaxdiff_tiny", data_dir=data_dir, size=0, **FEATURES)


def test_a_format_without_random_access(data_dir, tmp_path):
    place = tmp_path / "jaxdiff_tiny" / "1.0.0"
    shutil.copytree(f"{data_dir}/jaxdiff_tiny/1.0.0", place)
    info = json.loads((place / "dataset_info.json").read_text())
    (place / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="has a format without random access; where there is internet, run `tfds"):
        data.tfds("jaxdiff_tiny", data_dir=str(tmp_path), **FEATURES)
