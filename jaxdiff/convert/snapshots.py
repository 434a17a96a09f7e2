"""The snapshots of EDM and EDM2: pickled modules that tell all of themselves.

EDM's preconditioned networks are `EDMPrecond`, and those of the papers before it: `VPPrecond` (DDPM++), `VEPrecond`
(NCSN++), `iDDPMPrecond` (ADM); each is a process and what its network is shown (Karras et al. 2022, table 1).
"""

import math
import re
from typing import Any

from jaxdiff import foreign
from jaxdiff.convert.sources import Found, Source, Told, known
from jaxdiff.convert.tables import Rule, layer
from jaxdiff.convert.transforms import Transform, interleaved, joined, kernel, negated, same

__all__ = ["dhariwal_rules", "edm", "edm2", "edm2_rules", "song_rules"]

SONG = {"model_channels": 128, "channel_mult": (1, 2, 2, 2), "num_blocks": 4, "attn_resolutions": (16,),
        "augment_dim": 0, "embedding_type": "positional", "encoder_type": "standard", "decoder_type": "standard",
        "resample_filter": (1, 1), "dropout": 0.1}
DHARIWAL = {"model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_blocks": 3, "attn_resolutions": (32, 16, 8),
            "augment_dim": 0, "dropout": 0.1}
EDM2 = {"model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_blocks": 3, "attn_resolutions": (16, 8),
        "channels_per_head": 64, "dropout": 0.0, "res_balance": 0.3, "attn_balance": 0.3, "label_balance": 0.5,
        "concat_balance": 0.5, "clip_act": 256}
IMAGES = {"name": "images", "flip": False}

BLOCK = (
    Rule("{side}.{at}.norm{i:[01]}.weight", "{side}_{at}/norm{i}/scale", same),
    Rule("{side}.{at}.{norm:attn\\.norm|norm2}.weight", "{side}_{at}/norm2/scale", same),
    Rule("{side}.{at}.{norm:attn\\.norm|norm2}.bias", "{side}_{at}/norm2/bias", same),
    Rule("{side}.{at}.{attn:attn\\.|}qkv.weight", "{side}_{at}/attn/qkv/kernel", interleaved),
    Rule("{side}.{at}.{attn:attn\\.|}qkv.bias", "{side}_{at}/attn/qkv/bias", interleaved),
    Rule("{side}.{at}.{attn:attn\\.|}proj.weight", "{side}_{at}/attn/out/kernel", joined),
    Rule("{side}.{at}.{attn:attn\\.|}proj.bias", "{side}_{at}/attn/out/bias", same),
    Rule("{side}.{at}.{name}.resample_filter", None, same),
    Rule("{side}.{at}.resample_filter", None, same),
    *layer("{side}.{at}.{name}", "{side}_{at}/{name}"),
    Rule("{side}.{at:\\w+aux_norm}.weight", "{side}_{at}/scale", same),
    *layer("{side}.{at}", "{side}_{at}"),
    *layer("map_label", "map_label/linear"),
    Rule("map_noise.freqs", "map_noise/freqs", same),
    Rule("u", None, same),  # iDDPM's table of sigmas, which follows from its options
    Rule("out_norm.weight", "out_norm/scale", same),
    *layer("{name}", "{name}"),
)


def song_rules(resolution: int, last: Transform = kernel) -> tuple[Rule, ...]:
    """Returns the table of SongUNet, whose last layers bear the name of their level."""
    level = f"dec.{resolution}x{resolution}_aux"
    return (
        Rule(f"{level}_norm.weight", "out_norm/scale", same), Rule(f"{level}_norm.bias", "out_norm/bias", same),
        *layer(f"{level}_conv", "out_conv", last, bias=same if last is kernel else last), *BLOCK,
    )


def dhariwal_rules() -> tuple[Rule, ...]:
    """Returns the table of DhariwalUNet, ADM as EDM lays it out."""
    return BLOCK


CYCLES = Transform(lambda value, shape: value / (2 * math.pi), lambda value: value * (2 * math.pi))


def edm2_rules() -> tuple[Rule, ...]:
    """Returns the table of EDM2's UNet, whose frequencies are in radians."""
    return (
        Rule("{name:logvar_\\w+}.{leaf}", None, same),
        Rule("emb_fourier.{leaf}", "emb_fourier/{leaf}", CYCLES),
        Rule("out_gain", "out_gain", same),
        Rule("{side}.{at}.emb_gain", "{side}_{at}/emb_gain", same),
        Rule("{side}.{at}.attn_qkv.weight", "{side}_{at}/attn_qkv/weight", interleaved),
        Rule("{side}.{at}.attn_proj.weight", "{side}_{at}/attn_proj/weight", joined),
        Rule("{side}.{at}.{name}.weight", "{side}_{at}/{name}/weight", kernel),
        Rule("{side}.{at}.weight", "{side}_{at}/weight", kernel),
        Rule("{name}.weight", "{name}/weight", kernel),
    )


def edm(source: Source) -> Found:
    """Reads a snapshot of EDM (Karras et al. 2022): DDPM++, NCSN++ or ADM, under any of its preconditionings.

    Raises:
      ValueError: not a pickled network of EDM.
    """
    outer, inner = _modules(source, "model", tuple(PRECONDITIONS))
    given = inner["_init_kwargs"]
    resolution, channels = outer["img_resolution"], outer["img_channels"]
    classes = int(outer["label_dim"])
    noise, kind, times, last = PRECONDITIONS[outer.name](outer)
    if inner.name == "SongUNet":
        network, rules = _song(given), lambda network, resolution: song_rules(resolution, last)
    elif inner.name == "DhariwalUNet":
        network, rules = _adm(given), lambda network, resolution: dhariwal_rules()
    else:
        raise ValueError(f"the network is a {inner.name}; it may be a SongUNet or a DhariwalUNet")
    network |= {"num_classes": classes, "augment": int(given.get("augment_dim") or 0)}
    return Found(_within(source.weights, "model."), network, rules, (resolution, resolution, channels), noise, kind,
                 IMAGES, {"name": "heun"}, times, {"label": ((), "int32")} if classes else {})


def edm2(source: Source) -> Found:
    """Reads a snapshot of EDM2 (Karras et al. 2024), on pixels or latents.

    Raises:
      ValueError: not a pickled network of EDM2.
    """
    outer, inner = _modules(source, "unet", ("Precond",))
    options = known(inner["_init_kwargs"], EDM2)
    network = _width(options) | {
        "name": "EDM2", "head_channels": options["channels_per_head"], "dropout": options["dropout"],
        "balances": (options["res_balance"], options["attn_balance"]), "label_balance": options["label_balance"],
        "concat_balance": options["concat_balance"], "clip": float(options["clip_act"]),
        "num_classes": int(outer["label_dim"]),
    }
    resolution, channels = outer["img_resolution"], outer["img_channels"]
    weights = _within(source.weights, "unet.")
    noise, kind, times, _ = PRECONDITIONS["EDMPrecond"](outer)
    return Found(weights, network, lambda network, resolution: edm2_rules(), (resolution, resolution, channels), noise,
                 kind, _encoder(source), {"name": "heun"}, times | {"steps": 32},
                 {"label": ((), "int32")} if network["num_classes"] else {})


def _modules(source: Source, name: str, classes: tuple[str, ...]) -> tuple[foreign.Record, foreign.Record]:
    outer = source.record
    if outer is None or outer.name not in classes:
        raise ValueError(f"the file holds {'a state dict' if outer is None else f'a {outer.name}'}, and this layout is "
                         f"of pickled {', '.join(classes)}")
    return outer, Told(outer["_modules"])[name]


def _within(weights: dict, stem: str) -> dict:
    return {name.removeprefix(stem): value for name, value in weights.items()}


def _width(options: dict[str, Any]) -> dict[str, Any]:
    return {"channels": options["model_channels"], "mults": options["channel_mult"], "blocks": options["num_blocks"],
            "attention": options["attn_resolutions"]}


def _song(given: dict[str, Any]) -> dict[str, Any]:
    options = known(given, SONG)
    return _width(options) | {
        "name": "SongUNet", "dropout": options["dropout"], "noise_embedding": options["embedding_type"],
        "encoder": options["encoder_type"], "decoder": options["decoder_type"], "taps": options["resample_filter"]}


def _adm(given: dict[str, Any]) -> dict[str, Any]:
    options = known(given, DHARIWAL)
    return _width(options) | {"name": "ADM", "layout": "edm", "dropout": options["dropout"]}


# Preconditionings: (process, parameterization, times, what becomes of the last layer).


def _edm(state: Any) -> tuple:
    return ({"name": "EDM"}, {"name": "edm", "sigma_data": float(state["sigma_data"])},
            {"name": "karras", "steps": 18}, kernel)


def _vp(state: Any) -> tuple:
    low = float(state["beta_min"])
    noise = {"name": "VP", "beta_min": low, "beta_max": low + float(state["beta_d"])}
    shown = {"name": "timestep", "process": {**noise, "name": "jaxdiff.process:VP"}, "offset": 0.0,
             "scale": float(state["M"] - 1)}
    return noise, {"name": "eps", "noise": shown}, {"name": "uniform", "steps": 50}, kernel


def _ve(state: Any) -> tuple:
    noise = {"name": "VE", "sigma_min": float(state["sigma_min"]), "sigma_max": float(state["sigma_max"])}
    kind = {"name": "eps", "raw": True, "noise": {"name": "log_sigma", "scale": 1.0, "offset": math.log(0.5)}}
    return noise, kind, {"name": "logsnr", "steps": 50}, negated  # it predicts σ times the score, -ε


def _iddpm(state: Any) -> tuple:
    noise = {"name": "Discrete", "schedule": "cosine", "levels": int(state["M"])}
    shown = {"name": "timestep", "process": {**noise, "name": "jaxdiff.process:Discrete"},
             "scale": float(state["M"])}
    return noise, {"name": "eps", "noise": shown}, {"name": "uniform", "steps": 50}, kernel


PRECONDITIONS = {"EDMPrecond": _edm, "VPPrecond": _vp, "VEPrecond": _ve, "iDDPMPrecond": _iddpm}


def _encoder(source: Source) -> dict[str, Any]:
    """Returns how EDM2 encodes images: `z scale + bias`, ours is `(z - shift) scale`."""
    encoder = source.beside.get("encoder")
    if not isinstance(encoder, foreign.Record) or not re.search("VAE", encoder.name):
        return IMAGES
    scale, bias = (tuple(float(x) for x in encoder[name]) for name in ("scale", "bias"))
    return {"name": "latents", "scale": scale, "shift": tuple(-b / s for b, s in zip(bias, scale, strict=True))}

