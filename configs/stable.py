"""The UNet of Stable Diffusion on latents with text (Rombach et al. 2022), versions 1.5 and 2.1.

Reaches: not trained by us yet, nor is there a figure to reach: the model cards show curves of FID against CLIP score
on data that are not public.
Data: `data/latents/text_512` (`text_768` for 2.1), written by `jaxdiff.data.write_latents`: moments of the
autoencoder, and `text` [77, 768] of CLIP ViT-L ([77, 1024] of OpenCLIP ViT-H for 2.1).
Source: the model cards of 1.5 and 2.1: AdamW, batch 2048, a rate of 1e-4 after 10,000 steps.
Command: jaxdiff train --config=configs/stable.py:sd15 --workdir=runs/sd15
"""

from ml_collections import ConfigDict

from configs.parents import images

SIZES = {  # pixels, heads, prediction, micro-batches
    "sd15": (512, 8, "eps", 64),
    "sd21": (768, 0, "v", 128),
}
CUT = (("conv[01]/kernel|_(up|down)/kernel|skip/kernel", (None, None, None, "fsdp")), ("affine/kernel", (None, "fsdp")),
       ("(self|cross)/(qkv|q|kv)/kernel", ("fsdp",)), ("(self|cross)/out/kernel", (None, None, "fsdp")),
       ("mlp[01]/kernel|transformer/(in|out)/kernel", (None, "fsdp")))


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of a version; `tiny` is a small network on mock latents and two steps, for tests."""
    side, heads, prediction, parts = SIZES[images.named(arg, SIZES, "sd15")]
    config = images.latents(f"data/latents/text_{side}", batch=2048, train_images=2048 * 500_000, conditions=("text",))
    config.accumulate = parts
    config.network = {"name": "StableUNet", "channels": 320, "mults": (1, 2, 4, 4), "blocks": 2,
                      "transformers": (1, 1, 1, 0), "middle": 1, "heads": heads, "dtype": "bfloat16"}
    config.process = {"name": "Discrete", "schedule": "scaled_linear"}
    config.parameterization = images.as_published(prediction, config.process.to_dict())
    config.objective = {"name": "denoising", "drop": 0.1, "levels": {"name": "uniform"},
                        "weighting": {"name": "native"}}
    config.optimizer = {"name": "adamw", "learning_rate": images.warmed(1e-4, 10_000), "weight_decay": 1e-2}
    config.ema = ("decay_0.9999",)
    config.mesh.update(data=1, fsdp=-1, rules=CUT)
    config.sampler = {"name": "dpmpp_2m"}
    config.times = {"name": "leading", "steps": 50, "offset": 1}
    config.sample.batch = 64 if side == 768 else 256  # what 16 chips of 16 GiB hold
    return images.finished(config, arg, shape=(8, 8, 4), text={"text": (3, 8)}, channels=32, mults=(1,),
                           transformers=(1,), blocks=1, heads=2)
