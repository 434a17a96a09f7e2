"""Scores of one set: how sure and how many-sided a classifier finds it, and how well images fit their words."""

from typing import Any

import numpy as np

from jaxdiff.metrics.pairwise import rows_of

__all__ = ["clip_score", "cosines", "inception_score"]


def inception_score(logits: Any, *, splits: int = 10, shuffle: bool = True, seed: int = 2020) -> dict[str, float]:
    """Returns exp of the mean KL divergence, in nats, of p(class | image) from p(class); 1 to the number of classes.

        IS = exp E_x KL(p(y | x) ‖ p(y)),   p(y) = E_x p(y | x)

    Each part [i n / splits, (i + 1) n / splits) gives a score; `inception_score_std` has the number of parts in its
    denominator.  The defaults are torch-fidelity's.  ADM has parts of 5000 in file order: `splits=n // 5000,
    shuffle=False`; images that lie sorted by class then score too low, down to 1.

    Args:
      logits: [n, classes] of the classifier *without its bias*; FID's Inception has 1008 classes.
      splits: number of parts, 1 to n.
      shuffle: whether rows are permuted first.
      seed: of `numpy.random.RandomState`, which shuffles.

    Raises:
      ValueError: parts without rows, values that are not finite.

    Source: Salimans et al. 2016, section 4.
    """
    z = rows_of(logits, "given").astype(np.float64)
    n = len(z)
    if not 1 <= splits <= n:
        raise ValueError(f"{n} rows of logits are cut into 1 to {n} splits, got {splits}")
    if shuffle:
        z = z[np.random.RandomState(seed).permutation(n)]
    log_p = _log_softmax(z)
    scores = [_score(log_p[i * n // splits:(i + 1) * n // splits]) for i in range(splits)]
    return {"inception_score": float(np.mean(scores)), "inception_score_std": float(np.std(scores))}


def clip_score(images: Any, texts: Any, *, scale: float = 100.0) -> np.ndarray:
    """Returns scale·max(cos(image, text), 0) [n] of pairs, 0 to scale.

    Args:
      images: embeddings [n, d] of images.
      texts: embeddings [n, d] of their words, in the same order.
      scale: 100, as torchmetrics has it, or 2.5, the paper's (which then is called CLIP-S).

    Raises:
      ValueError: other numbers or dimensions, an embedding of length 0, values that are not finite.

    Source: Hessel et al. 2021, eq. 1.
    """
    return scale * np.maximum(cosines(images, texts), 0)


def cosines(a: Any, b: Any) -> np.ndarray:
    """Returns the cosine [n] of each row of a [n, d] with the same row of b [n, d], float64.

    Raises:
      ValueError: other numbers or dimensions, a row of length 0, values that are not finite.
    """
    a, b = rows_of(a, "image").astype(np.float64), rows_of(b, "text").astype(np.float64)
    if a.shape != b.shape:
        raise ValueError(f"pairs need as many rows of one dimension on each side, got {a.shape} and {b.shape}")
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if not lengths.all():
        raise ValueError(f"{int((lengths == 0).sum())} of {len(a)} pairs have an embedding of length 0")
    return (a * b).sum(1) / lengths


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def _score(log_p: np.ndarray) -> float:
    p = np.exp(log_p)
    mean = p.mean(0)
    log_mean = np.log(mean, where=mean > 0, out=np.zeros_like(mean))  # p is 0 wherever its mean is
    return float(np.exp((p * (log_p - log_mean)).sum(1).mean()))
