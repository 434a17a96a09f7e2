"""Text as tokens: the bytes of UTF-8, and pairs of tokens that often stand side by side, joined.

Token 0 is padding, 1 begins a text and 2 ends it; byte b is 3 + b; join i of a trained tokenizer is 259 + i.
A tokenizer without joins takes bytes alone.  Every text has tokens, whatever its language, and comes back from
them.  Joins stay within pieces (letters with the space before them, digits, signs, white space), cut by ASCII
classes, in which every other byte is a letter: no version of Unicode changes them.
"""

import collections
import dataclasses
import functools
import heapq
import json
import os
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.build import nearest

__all__ = ["BEGIN", "END", "PAD", "Tokenizer", "load", "save", "train"]

PAD, BEGIN, END, BYTES = 0, 1, 2, 3
FIRST = BYTES + 256  # of the joins
KIND = "jaxdiff tokens 1"
PIECES = re.compile(rb" ?[A-Za-z\x80-\xff]+| ?[0-9]+| ?[^\sA-Za-z0-9\x80-\xff]+|\s+(?!\S)|\s+")

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Texts to tokens and back.

    Attributes:
      merges: pairs of tokens that are joined, the earlier first; () for bytes alone.

    Raises:
      ValueError: a pair that holds a later token, or none that is a part of a text; the same pair twice.

    Source: Gage 1994; Sennrich et al. 2016 (arXiv:1508.07909); on bytes, Radford et al. 2019 (GPT-2).
    """

    merges: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        for i, pair in enumerate(self.merges):
            if len(pair) != 2 or not all(BYTES <= token < FIRST + i for token in pair):
                raise ValueError(f"join {i} is of two tokens from {BYTES} to {FIRST + i - 1}, got {pair}")
        if len(set(self.merges)) < len(self.merges):
            raise ValueError("a pair of tokens is joined twice")

    @property
    def size(self) -> int:
        """Number of tokens: the vocabulary of a network that reads them."""
        return FIRST + len(self.merges)

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns tokens int32 [n, length] and the mask bool [n, length], False where there is only padding.

        Args:
          texts: [n]; what is too long is cut, and its last token still ends it.
          length: at least 2, the beginning and the end.

        Raises:
          ValueError: a single string, a length below 2, or a text that is not valid Unicode.
        """
        return rows((self.parts(data) for data in _utf8(texts)), BEGIN, END, len(texts), length)

    def parts(self, data: bytes) -> list[int]:
        """Returns the tokens of one text, without beginning and end."""
        return [token for piece in PIECES.findall(data) for token in self._joined(piece)]

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Returns the texts [n] of tokens [n, length], each up to its end; broken UTF-8 becomes U+FFFD.

        Raises:
          ValueError: another shape, or a token that there is not.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"decode takes integers [n, length], got {tokens.dtype} {list(tokens.shape)}")
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.size:
            raise ValueError(f"tokens lie in 0..{self.size - 1}, got {tokens.min()}..{tokens.max()}")
        texts = []
        for row in tokens.tolist():
            before = row[:row.index(END)] if END in row else row
            texts.append(b"".join(self._bytes[token] for token in before).decode(errors="replace"))
        return texts

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        """What each token stands for."""
        known = [b""] * BYTES + [bytes([value]) for value in range(256)]
        for first, second in self.merges:
            known.append(known[first] + known[second])
        return known

    @functools.cached_property
    def _ranks(self) -> dict[Pair, int]:
        return {pair: i for i, pair in enumerate(self.merges)}

    @functools.cached_property
    def _joined(self) -> Any:
        return functools.lru_cache(maxsize=100_000)(self._join)  # words come again and again

    def _join(self, piece: bytes) -> list[int]:
        word = [BYTES + value for value in piece]
        while len(word) > 1:
            rank = min(self._ranks.get(pair, len(self.merges)) for pair in pairwise(word))
            if rank == len(self.merges):
                break
            word = _merged(word, self.merges[rank], FIRST + rank)
        return word


def train(texts: Sequence[str], *, size: int) -> Tokenizer:
    """Learns the joins of a set of texts: again and again the most frequent pair, of equals the lowest.

    Args:
      texts: captions, in any order.
      size: number of tokens wanted, at least 259; there are fewer if no pair is left that occurs twice.

    Returns:
      A tokenizer that depends on the texts alone.

    Raises:
      ValueError: a single string, a size below 259, or a text that is not valid Unicode.

    Source: Sennrich et al. 2016, algorithm 1.
    """
    if size < FIRST:
        raise ValueError(f"a tokenizer has at least {FIRST} tokens, the bytes among them, got size={size}")
    counts = collections.Counter(piece for data in _utf8(texts) for piece in PIECES.findall(data))
    words = [[BYTES + value for value in piece] for piece in counts]
    times = list(counts.values())
    total: collections.Counter[Pair] = collections.Counter()
    where: dict[Pair, set[int]] = collections.defaultdict(set)
    for i, word in enumerate(words):
        _count(total, where, i, word, times[i])
    queue = [(-count, pair) for pair, count in total.items()]
    heapq.heapify(queue)
    merges: list[Pair] = []
    while queue and FIRST + len(merges) < size:
        count, pair = heapq.heappop(queue)
        if -count != total[pair]:
            continue  # counted anew since
        if -count < 2:
            break
        changed: set[Pair] = set()
        for i in where.pop(pair):
            changed |= _count(total, where, i, words[i], -times[i])
            words[i] = _merged(words[i], pair, FIRST + len(merges))
            changed |= _count(total, where, i, words[i], times[i])
        merges.append(pair)
        for other in changed:
            heapq.heappush(queue, (-total[other], other))
    return Tokenizer(tuple(merges))


def save(tokenizer: Tokenizer, path: str | os.PathLike) -> None:
    """Writes a tokenizer as JSON, whole or not at all."""
    partial = Path(f"{path}.{os.getpid()}")
    partial.write_text(json.dumps({"kind": KIND, "merges": tokenizer.merges}) + "\n", encoding="utf-8")
    partial.replace(path)


def load(path: str | os.PathLike) -> Tokenizer:
    """Reads what `save` wrote.

    Raises:
      ValueError: no such file, or one that is damaged or another thing.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        beside = [file.name for file in path.parent.glob("*.json")]
        raise ValueError(f"no tokenizer {str(path)!r}{nearest(path.name, beside)}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["kind"] != KIND:
            raise ValueError(f"its kind is {values['kind']!r}, not {KIND!r}")
        return Tokenizer(tuple((first, second) for first, second in values["merges"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is not a tokenizer, or damaged: {error}") from error


def rows(parts: Iterable[list[int]], begin: int, end: int, n: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens int32 [n, length] and mask bool [n, length] of n lists, each cut, begun, ended and padded with 0.

    Raises:
      ValueError: a length below 2.
    """
    if length < 2:
        raise ValueError(f"a text has a beginning and an end, so that length is at least 2, got {length}")
    tokens, mask = np.zeros((n, length), np.int32), np.zeros((n, length), bool)
    for i, part in enumerate(parts):
        row = [begin, *part[:length - 2], end]
        tokens[i, :len(row)], mask[i, :len(row)] = row, True
    return tokens, mask


def listed(texts: Sequence[str]) -> Sequence[str]:
    """Returns `texts`.

    Raises:
      ValueError: they are a single string, whose letters would be the texts.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts are a list of strings, got the string {texts[:40]!r}")
    return texts


def _utf8(texts: Sequence[str]) -> Iterable[bytes]:
    for i, text in enumerate(listed(texts)):
        try:
            yield text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text {i} is not valid Unicode: {error}") from error


def _merged(word: list[int], pair: Pair, token: int) -> list[int]:
    """Returns the word with every `pair`, from the left, as one token."""
    out: list[int] = []
    for part in word:
        if out and (out[-1], part) == pair:
            out[-1] = token
        else:
            out.append(part)
    return out


def _count(total: collections.Counter, where: dict, i: int, word: list[int], times: int) -> set[Pair]:
    """Adds `times` to every pair of word i; returns the pairs."""
    pairs = list(pairwise(word))
    for pair in pairs:
        total[pair] += times
        if times > 0:
            where[pair].add(i)
    return set(pairs)
