"""Prepared data sets of TensorFlow Datasets, read without TensorFlow.

Only array_record files can be read in any order; `tfds build NAME --file_format=array_record`
writes them, once, where there is internet and TensorFlow.
"""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.build import nearest
from jaxdiff.data.files import squared

__all__ = ["Records", "tfds"]


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Records that are decoded one by one; see `tfds`, which makes it."""

    records: Any
    image: str
    label: str
    size: int | None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = self.records[index]
        example = {"image": squared(record[self.image], self.size)}
        return {**example, "label": np.asarray(record[self.label], np.int32)} if self.label else example


def tfds(dataset: str, *, split: str = "train", data_dir: str | None = None, image: str = "image",
         label: str = "label", size: int | None = None) -> Records:
    """Opens a prepared data set of TensorFlow Datasets.

    Args:
      dataset: a name of the catalogue (`cifar10`, `downsampled_imagenet/64x64`), the name of one
        that you prepared in `data_dir`, or the path of a folder that holds `dataset_info.json`.
      split: `train`, `train[:50%]`, `train+test`, as TFDS reads it.
      data_dir: where data sets are kept; TFDS's own place (`~/tensorflow_datasets`) by default.
      image: the feature that becomes `image`: uint8 [h, w, c].
      label: the feature that becomes `label`: an integer; '' for none.
      size: crop every image to its central square and resize it to size x size.

    Returns:
      A source of `{"image": uint8 [h, w, c], "label": int32}`; other features are left out.

    Raises:
      ValueError: unknown data set, split or feature; a data set that is not prepared, or not in a
        format with random access; images that are not uint8 [h, w, c].
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    builder = _builder(dataset, data_dir)
    remedy = (f"where there is internet, run `tfds build {dataset} --file_format=array_record --data_dir=DIR`, "
              "copy DIR here and set data_dir to it")
    if not builder.info.splits:
        raise ValueError(f"data set {dataset!r} is not prepared in {str(builder.data_path)!r}; {remedy}")
    for feature in filter(None, (image, label)):
        if feature not in builder.info.features:
            raise ValueError(f"data set {dataset!r} has no feature {feature!r}{nearest(feature, builder.info.features)}"
                             + (" (label='' for none)" if feature == label else ""))
    try:
        records = builder.as_data_source(split)
    except NotImplementedError as error:
        raise ValueError(f"data set {dataset!r} in {str(builder.data_path)!r} has a format without random access; "
                         + remedy) from error
    except ValueError as error:
        raise ValueError(f"data set {dataset!r} has no split {split!r} (a part is written 'train[:50%]')"
                         f"{nearest(split, builder.info.splits)}") from error
    source = Records(records, image, label, size)
    _check_image(dataset, image, source)
    return source


def _builder(dataset: str, data_dir: str | None) -> Any:
    import tensorflow_datasets  # TensorFlow itself stays unloaded

    place = Path(dataset).expanduser()
    if dataset.startswith(("/", ".", "~")) or "://" in dataset or (place / "dataset_info.json").is_file():
        try:
            return tensorflow_datasets.builder_from_directory(dataset if "://" in dataset else place)
        except Exception as error:  # TFDS's own, or the file system's
            inner = sorted(str(found.parent) for found in place.glob("**/dataset_info.json"))
            raise ValueError(f"no prepared data set (dataset_info.json) in {dataset!r}"
                             f"{nearest(dataset, inner)}") from error
    try:
        return tensorflow_datasets.builder(dataset, data_dir=data_dir)
    except tensorflow_datasets.core.registered.DatasetNotFoundError as error:
        root = Path(data_dir or tensorflow_datasets.core.constants.DATA_DIR).expanduser()
        prepared = sorted({found.relative_to(root).parts[0] for found in root.glob("*/**/dataset_info.json")})
        known = [*prepared, *tensorflow_datasets.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(dataset, known, n=1, cutoff=0.5)  # the catalogue is too long to print
        raise ValueError(f"unknown data set {dataset!r}: neither in TFDS's catalogue nor in {str(root)!r}"
                         f"{nearest(dataset, close or prepared)}") from error


def _check_image(dataset: str, image: str, source: Records) -> None:
    if len(source) == 0:
        return  # `batches` refuses it
    pixels = source.records[0][image]
    shape, kind = np.shape(pixels), getattr(pixels, "dtype", type(pixels).__name__)
    if kind != np.uint8 or len(shape) != 3:
        raise ValueError(f"feature {image!r} of {dataset!r} must be an image, uint8 [h, w, c], got {kind} {shape}")
