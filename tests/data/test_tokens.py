"""Bytes and byte pairs: every text comes back, and joins are those of the definition."""

import collections
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdiff.data import tokens

CAPTIONS = ["a red cube on a red ball", "a blue cube", "the red ball, 64 px", "ein roter Würfel", "赤い立方体",
            "🧑🏾‍🚒 a ball"] * 2
TRAINED = tokens.train(CAPTIONS, size=290)


@pytest.mark.parametrize("tokenizer", [tokens.Tokenizer(), TRAINED], ids=["bytes", "pairs"])
@given(texts=st.lists(st.text(), max_size=4))
def test_any_text_comes_back(tokenizer, texts):
    ids, mask = tokenizer.encode(texts, 4 * max(map(len, texts), default=0) + 2)
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == mask.shape
    assert tokenizer.decode(ids) == texts
    np.testing.assert_array_equal(mask, ids != tokens.PAD)


@given(st.text(alphabet=" \n.,a1Zé", max_size=30))
def test_pieces_are_the_text(text):
    assert b"".join(tokens.PIECES.findall(text.encode())) == text.encode()


def test_the_layout_of_bytes():
    ids, mask = tokens.Tokenizer().encode(["hé", ""], 6)
    np.testing.assert_array_equal(ids, [[1, 3 + ord("h"), 3 + 0xC3, 3 + 0xA9, 2, 0], [1, 2, 0, 0, 0, 0]])
    np.testing.assert_array_equal(mask.sum(1), [5, 2])
    assert tokens.Tokenizer().size == 259


def test_a_long_text_is_cut_and_still_ends():
    ids, mask = tokens.Tokenizer().encode(["abcdef", "aé"], 4)
    np.testing.assert_array_equal(ids[0], [1, 3 + ord("a"), 3 + ord("b"), 2])
    assert mask.all() and tokens.Tokenizer().decode(ids) == ["ab", "a\ufffd"]  # é has two bytes
    assert tokens.Tokenizer().decode(np.zeros((1, 4), np.int32)) == [""]


def by_definition(texts, size):
    """Byte pairs counted anew for each join."""
    words = collections.Counter(piece for text in texts for piece in tokens.PIECES.findall(text.encode()))
    words = {tuple(3 + value for value in piece): times for piece, times in words.items()}
    merges = []
    while 259 + len(merges) < size:
        total = collections.Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                total[pair] += times
        pair, count = min(total.items(), key=lambda item: (-item[1], item[0]), default=((), 0))
        if count < 2:
            break
        merges.append(pair)
        words = {tuple(tokens._merged(list(word), pair, 258 + len(merges))): times for word, times in words.items()}
    return tuple(merges)


@given(st.lists(st.text(alphabet="ab c", max_size=20), max_size=5), st.integers(259, 275))
def test_training_is_its_definition_in_any_order(texts, size):
    trained = tokens.train(texts, size=size)
    assert trained.merges == by_definition(texts, size)
    assert trained == tokens.train(random.Random(0).sample(texts, len(texts)), size=size)


def test_joins_shorten_and_end_where_no_pair_repeats():
    length = lambda tokenizer: tokenizer.encode(CAPTIONS, 99)[1].sum()
    assert length(TRAINED) < 0.6 * length(tokens.Tokenizer())
    assert TRAINED.size == 290 and TRAINED.merges == by_definition(CAPTIONS, 290)
    assert tokens.train(["abab"], size=999).merges == ((100, 101),)


def test_saved_and_loaded(tmp_path):
    tokens.save(TRAINED, tmp_path / "captions.json")
    assert tokens.load(tmp_path / "captions.json") == TRAINED
    assert [file.name for file in tmp_path.iterdir()] == ["captions.json"]
    with pytest.raises(ValueError, match="no tokenizer .*caption.json'; did you mean 'captions.json'"):
        tokens.load(tmp_path / "caption.json")
    for text, why in (("{", "Expecting"), ("[]", "list"), ('{"kind": "other"}', "'other', not 'jaxdiff tokens 1'"),
                      ('{"kind": "jaxdiff tokens 1"}', "merges"),
                      ('{"kind": "jaxdiff tokens 1", "merges": [[3, 259]]}', "two tokens from 3 to 258")):
        (tmp_path / "captions.json").write_text(text)
        with pytest.raises(ValueError, match=f"not a tokenizer, or damaged: .*{why}"):
            tokens.load(tmp_path / "captions.json")


def test_errors():
    with pytest.raises(ValueError, match=r"texts are a list of strings, got the string 'a cat'"):
        tokens.Tokenizer().encode("a cat", 5)
    with pytest.raises(ValueError, match="length is at least 2, got 1"):
        tokens.Tokenizer().encode(["a"], 1)
    with pytest.raises(ValueError, match="text 1 is not valid Unicode: .*surrogates"):
        tokens.Tokenizer().encode(["a", "\ud800"], 5)
    with pytest.raises(ValueError, match="at least 259 tokens, .* got size=100"):
        tokens.train(["a"], size=100)
    with pytest.raises(ValueError, match="joined twice"):
        tokens.Tokenizer(((3, 4), (3, 4)))
    with pytest.raises(ValueError, match=r"integers \[n, length\], got float64 \[2\]"):
        tokens.Tokenizer().decode(np.zeros(2))
    with pytest.raises(ValueError, match=r"tokens lie in 0..258, got 0..300"):
        tokens.Tokenizer().decode(np.array([[0, 300]]))
