"""WordPiece, the tokens of BERT: words and the pieces they are made of, of a vocabulary that was trained elsewhere."""

import dataclasses
import functools
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxdiff.build import nearest
from jaxdiff.data import tokens

__all__ = ["WordPiece", "load"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LONGEST = 100  # a longer word is unknown
IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
              (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))  # each is a word


@dataclasses.dataclass(frozen=True)
class WordPiece:
    """Texts to the tokens of BERT; `[CLS]` begins a text and `[SEP]` ends it, and in a text they are plain words.

    Attributes:
      vocabulary: pieces, in the order of their tokens; those within a word begin with ##.
      lower: without capitals and accents.

    Raises:
      ValueError: a vocabulary without the special pieces, or whose first is not `[PAD]`.

    Source: Devlin et al. 2019 (BERT); Schuster & Nakajima 2012.
    """

    vocabulary: tuple[str, ...]
    lower: bool = True

    def __post_init__(self) -> None:
        missing = [piece for piece in SPECIAL if piece not in self._numbers]
        if missing or self.vocabulary[0] != SPECIAL[0]:
            raise ValueError(f"a vocabulary of BERT has {', '.join(SPECIAL)}, the first as its token 0, and this one "
                             f"{f'lacks {missing[0]}' if missing else f'begins with {self.vocabulary[0]}'}")

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.vocabulary)

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns tokens int32 [n, length] and the mask bool [n, length], False where there is only padding.

        Args:
          texts: [n]; what is too long is cut, and its last token still ends it.
          length: at least 2, the beginning and the end.

        Raises:
          ValueError: a single string, or a length below 2.
        """
        begin, end = self._numbers["[CLS]"], self._numbers["[SEP]"]
        parts = ([token for word in _words(text, self.lower) for token in self._pieces(word)]
                 for text in tokens.listed(texts))
        return tokens.rows(parts, begin, end, len(texts), length)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.vocabulary)}

    def _pieces(self, word: str) -> list[int]:
        """Returns the longest known piece, then the longest known of the rest, and so on."""
        pieces, start = [], 0
        while start < len(word) <= LONGEST:
            mark = "##" if start else ""
            end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in self._numbers), None)
            if end is None:
                break
            pieces.append(self._numbers[mark + word[start:end]])
            start = end
        return pieces if start == len(word) else [self._numbers["[UNK]"]]


def load(path: str | os.PathLike, *, lower: bool = True) -> WordPiece:
    """Reads a `vocab.txt`, a piece a line.

    Raises:
      ValueError: no such file, or one that is no vocabulary of BERT.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        beside = [file.name for file in path.parent.glob("*.txt")]
        raise ValueError(f"no vocabulary {str(path)!r}{nearest(path.name, beside)}")
    return WordPiece(tuple(path.read_text(encoding="utf-8").removesuffix("\n").split("\n")), lower)


def _words(text: str, lower: bool) -> list[str]:
    """Returns the words of a text; signs and ideographs are words of their own."""
    control = lambda char: char not in "\t\n\r" and unicodedata.category(char)[0] == "C"
    kept = "".join(char for char in text if not control(char) and char != "\ufffd")
    kept = "".join(f" {char} " if _is_ideograph(ord(char)) else char for char in kept)
    if lower:
        kept = "".join(char for char in unicodedata.normalize("NFD", kept) if unicodedata.category(char) != "Mn")
        kept = "".join(char.lower() for char in kept)  # one by one: in a word Python knows a last sigma
    return "".join(f" {char} " if _is_sign(char) else char for char in kept).split()


def _is_ideograph(code: int) -> bool:
    return any(first <= code <= last for first, last in IDEOGRAPHS)


def _is_sign(char: str) -> bool:
    ascii_sign = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    return ascii_sign or unicodedata.category(char)[0] == "P"
