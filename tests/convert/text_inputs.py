"""What the text encoders and their peers are shown; imports numpy alone, since `make_minilm.py` reads it."""

import numpy as np

SENTENCES = [
    "A man firefighter, dark skin.",
    "a woman firefighter, light skin",
    "Ein roter Würfel auf 2 Kugeln; naïve café!",
    "赤い立方体",
]
STRANGE = [
    "The unaffable cat", "UNAFFABLE\tCats\n", "naïve Café", "cat,cats!", "catx x", "猫cat", "", "  ",
    "a\u0000b\u200dc \ufffd",
    "ΣΑΣ", "cat\u00a0cat", "it's $5+x^2 `~", "İ", "cat" * 40, "q" * 101, "«cat»", "\u2028cat", "e\u0301",
    "un\u0085able",
]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "un", "##aff", "##able", "cat", "##s", "##cat", "naive", "cafe",
          ",", "!", "猫", "a", "b", "##b", "##c", "σας", "σ", "##α", "##σ", "it", "'", "s", "$", "5", "+", "^", "2",
          "`", "~", "i", "«", "»", "e", "q", "##q", "x", "##x"]

TOKENS = np.array([[5, 9, 3, 7, 11, 0, 0], [5, 4, 4, 8, 2, 6, 11]], np.int32)  # 11 is the highest: CLIP's end
MASK = np.array([[1, 1, 1, 1, 1, 0, 0], [1] * 7], bool)
BERT = dict(vocab_size=12, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=9, hidden_act="gelu", layer_norm_eps=1e-12)
CLIP = dict(vocab_size=12, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=7, hidden_act="quick_gelu", projection_dim=6, eos_token_id=2, pad_token_id=0,
            bos_token_id=5)
