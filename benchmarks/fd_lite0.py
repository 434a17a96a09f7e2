"""FD-Lite0 of CIFAR-10's test images against its training images: what spoils them must raise it, at every step.

    blur, JPEG, noise   of n test images, at four strengths each
    modes               2,000 test images of the first 10 - d classes fewer, in place of all ten
    number              test images as they are, N of each side: what is left of the distance is its bias

A distance is of as many training images as test images.  Its *floor* is that of test images as they are.  Every series
starts at its floor and rises with the strength; the bias falls with N; if one does not, the exit status is 1.

Features are kept in `--out`, one file a set, and are not made again.

Command: python -m benchmarks.fd_lite0 --cifar=FOLDER   (15 minutes on 2 CPU cores; with --n=2048, 6)
"""

import argparse
import io
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from jaxdiff import evaluate, metrics

DOCS = Path(__file__).resolve().parent.parent / "docs"

Pictures = np.ndarray  # [n, 32, 32, 3] uint8

SPOILT = {"blur": (0.5, 0.75, 1, 2), "JPEG": (90, 70, 40, 10), "noise": (4, 8, 16, 32)}
DROPPED, FEW = (1, 2, 5, 8), 2000  # classes; images, as many as there are of two classes
NUMBERS, REPEATS = (128, 256, 512, 1024, 2048, 4096, 8192), 8
BATCH = 16  # on CPUs a fifth faster than 64
AXES = {"blur": "standard deviation, pixels", "JPEG": "quality", "noise": "standard deviation, of 255",
        "modes": "classes left out, of 10"}

# Images.


def opened(folder: Path, split: str) -> tuple[Pictures, np.ndarray]:
    """Returns images and labels of a split, in an order drawn once: tiles of 32 by 32, row by row, of WebP sheets."""
    sheets = []
    for path in sorted(folder.glob(f"{split}_[0-9].webp")):
        sheet = np.asarray(Image.open(path))
        sheets.append(sheet.reshape(len(sheet) // 32, 32, -1, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3))
    if not sheets:
        raise SystemExit(f"--cifar={folder}: no {split}_0.webp there")
    labels = np.load(folder / f"{split}_labels.npy")
    order = np.random.default_rng(0).permutation(len(labels))
    return np.concatenate(sheets)[order], labels[order]


def blur(images: Pictures, sigma: float) -> Pictures:
    """Returns images under a Gaussian."""
    return rounded(ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0)))


def jpeg(images: Pictures, quality: int) -> Pictures:
    """Returns images as they come back from a JPEG file."""
    def back(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return np.stack([back(image) for image in images])


def noise(images: Pictures, sigma: float) -> Pictures:
    """Returns images with Gaussian noise, the same at every strength but for its size."""
    return rounded(images + sigma * np.random.default_rng(1).standard_normal(images.shape, np.float32))


def rounded(x: np.ndarray) -> Pictures:
    """Returns bytes."""
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


SPOIL: dict[str, Callable[[Pictures, float], Pictures]] = {"blur": blur, "JPEG": jpeg, "noise": noise}

# Features.


def seen(folder: Path, name: str, images: Callable[[], Pictures], count: int, extract: metrics.features) -> np.ndarray:
    """Returns features [count, 1280] of a set, from its file if they are in it."""
    path, made_by = folder / f"{name}.npz", json.dumps(evaluate.marks(extract))
    if path.exists():
        with np.load(path) as file:
            if str(file["made_by"]) == made_by and len(file["features"]) >= count:
                return file["features"][:count]
    start, source = time.monotonic(), {"image": images()[:count]}
    looked = evaluate.look({"lite0": extract}, evaluate.pictures.examples(source), batch=BATCH)
    features = np.concatenate([arrays["lite0/features"] for _, arrays in looked])
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    np.savez(partial, features=features, made_by=made_by)
    partial.rename(path)
    print(f"{name}: {count} images, {count / (time.monotonic() - start):.0f} a second", flush=True)
    return features


def apart(made: np.ndarray, real: np.ndarray) -> float:
    """Returns the distance of features, of as many on either side."""
    return metrics.frechet(metrics.moments(real[:len(made)]), metrics.moments(made))


# The study.


def study(cifar: Path, folder: Path, n: int) -> dict:
    """Returns `series`: name -> {n, floor, points [[strength, distance], ...]}, and `number`."""
    extract = metrics.features.lite0()
    train, (test, labels) = opened(cifar, "train")[0], opened(cifar, "test")
    real = seen(folder, "train", lambda: train, max(n, FEW), extract)
    plain = seen(folder, "test", lambda: test, len(test), extract)
    series = {}
    for kind, strengths in SPOILT.items():
        points = []
        for strength in strengths:
            spoilt = seen(folder, f"{kind}_{strength}", lambda: SPOIL[kind](test[:n], strength), n, extract)  # noqa: B023
            points.append([strength, apart(spoilt, real)])
        series[kind] = {"n": n, "floor": apart(plain[:n], real), "points": points}
    left = {dropped: plain[labels >= dropped][:FEW] for dropped in (0, *DROPPED)}
    series["modes"] = {"n": FEW, "floor": apart(left[0], real),
                       "points": [[dropped, apart(left[dropped], real)] for dropped in DROPPED]}
    return {"extractor": evaluate.marks(extract), "data": "CIFAR-10, test against train", "series": series,
            "number": of_numbers(plain[:n], real[:n])}


def of_numbers(made: np.ndarray, real: np.ndarray) -> dict:
    """Returns `points` [[N, mean, deviation, parts], ...] of parts that share no image, and what infinitely many give.

    `frechet_infinity` lets the made ones alone become many; `line` both sides, over the three largest numbers: below
    the 1,280 dimensions the distance is no line over 1/N.
    """
    points = []
    for number in (number for number in NUMBERS if number <= len(made)):
        parts = [slice(i * number, (i + 1) * number) for i in range(min(REPEATS, len(made) // number))]
        found = [apart(made[part], real[part]) for part in parts]
        points.append([number, float(np.mean(found)), float(np.std(found)), len(found)])
    n, mean, *_ = np.transpose(points[-3:])
    slope, line = np.polyfit(1 / n, mean, 1)
    infinity = metrics.frechet_infinity(made, metrics.moments(real), least=len(made) // 4)
    return {"points": points, "frechet_infinity": infinity, "line": float(line), "slope": float(slope)}


def falling(found: dict) -> list[str]:
    """Returns what does not rise with the strength, or fall with the number."""
    rows = {name: [one["floor"], *(distance for _, distance in one["points"])] for name, one in found["series"].items()}
    rows["number"] = [point[1] for point in reversed(found["number"]["points"])]
    return [f"{name}: {', '.join(f'{distance:.3f}' for distance in row)}" for name, row in rows.items()
            if not all(one < other for one, other in itertools.pairwise(row))]


def table(found: dict) -> str:
    """Returns the figures in Markdown."""
    lines = ["| test images | n | FD-Lite0 | over the floor |", "|---|---|---|---|"]
    for name, one in found["series"].items():
        for strength, distance in [["none", one["floor"]], *one["points"]]:
            lines.append(f"| {name}, {strength} | {one['n']} | {distance:.3f} | {distance / one['floor']:.1f} |")
    lines += ["", "| images a side | FD-Lite0 | deviation | parts |", "|---|---|---|---|"]
    lines += [f"| {n} | {mean:.3f} | {deviation:.3f} | {parts} |" for n, mean, deviation, parts in
              found["number"]["points"]]
    number = found["number"]
    lines += [f"| ∞, of test images (`frechet_infinity`) | {number['frechet_infinity']:.3f} | | |",
              f"| ∞, of both (a line over 1/N) | {number['line']:.3f} | | |"]
    return "\n".join(lines)


def picture(found: dict, path: Path) -> None:
    """Draws a panel a series, and the distance over 1/N."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, len(found["series"]) + 1, figsize=(16, 3.6), layout="constrained")
    for panel, (name, one) in zip(axes, found["series"].items(), strict=False):
        panel.plot(*np.transpose(one["points"]), "o-", color="#1d4ed8")
        panel.axhline(one["floor"], color="#999999", linewidth=1)
        panel.annotate("test images as they are", (0, one["floor"]), (4, 4), color="#777777", fontsize=8,
                       xycoords=("axes fraction", "data"), textcoords="offset points")
        panel.set(title=f"{name}, n = {one['n']:,}", xlabel=AXES[name], yscale="log")
        panel.set_ylim(bottom=0.8 * one["floor"])
        if name == "JPEG":
            panel.invert_xaxis()
    axes[0].set_ylabel("FD-Lite0 to training images")
    last, number = axes[-1], found["number"]
    n, mean, deviation, _ = np.transpose(number["points"])
    last.errorbar(1 / n, mean, deviation, fmt="o-", color="#1d4ed8")
    ends = np.array([0, 1 / n[0]])
    last.plot(ends, number["line"] + number["slope"] * ends, "--", color="#d97706", linewidth=1)
    last.set(title="number", xlabel="1/N, N images a side")
    last.set_ylim(bottom=0)
    for panel in axes:
        panel.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        panel.yaxis.set_minor_formatter(ticker.NullFormatter())
        panel.grid(which="major", color="#eeeeee", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    with Image.open(path) as whole:
        whole.convert("RGB").quantize(128).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and draws; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="folder of {train,test}_0.webp.. and {train,test}_labels.npy")
    parser.add_argument("--n", type=int, default=8192, help="images of a spoilt set")
    parser.add_argument("--out", type=Path, default=Path("runs/fd_lite0"), help="folder of features")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of fd_lite0.json and fd_lite0.png")
    parser.add_argument("--redraw", action="store_true", help="draw the figures that are there")
    options = parser.parse_args(arguments)
    figures, start = options.docs / "fd_lite0.json", time.monotonic()
    if options.redraw:
        found = json.loads(figures.read_text())
    elif options.cifar:
        found = study(options.cifar, options.out, options.n)
        options.docs.mkdir(parents=True, exist_ok=True)
        figures.write_text(json.dumps(found, indent=1) + "\n")
    else:
        parser.error("--cifar names the folder of images")
    picture(found, options.docs / "fd_lite0.png")
    print(table(found))
    wrong = falling(found)
    print(f"{figures} and fd_lite0.png, {time.monotonic() - start:.0f} s", *wrong, sep="\nnot monotone: ")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
