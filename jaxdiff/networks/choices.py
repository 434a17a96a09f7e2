"""What every network checks of its own fields when it is made."""

import flax.linen as nn

from jaxdiff import layers

__all__ = ["COMPUTE", "check"]

COMPUTE = {"kernel": tuple(layers.attention.KERNELS), "dtype": layers.DTYPES}  # of all that attends


def check(network: nn.Module, choices: dict[str, tuple[str, ...]]) -> None:
    """Refuses a field of `network` that is none of its choices, and a dropout that is no probability below 1.

    Raises:
      ValueError: the field, what it was given, and what it may be.
    """
    for field, allowed in choices.items():
        if getattr(network, field) not in allowed:
            raise ValueError(f"{type(network).__name__} has no {field} {getattr(network, field)!r}; it may be "
                             f"{' or '.join(allowed)}")
    dropout = getattr(network, "dropout", 0.0)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
