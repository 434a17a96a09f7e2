"""Eight trainings of the digits: the rate of learning by the seed; or a search of rate and batch.

Reaches: a table that says whether four rates differ by more than two seeds do (docs/sweeps.md).
Command: python launch/sweep.py --config=configs/sweeps/digits.py --workdir=runs/sweep --on=local --parallel=2
"""

from configs.digits import get_config

__all__ = ["get_config", "search", "sweep"]


def _adam(rate):
    return {"name": "adam", "b2": 0.99, "learning_rate": {"name": "linear_schedule", "init_value": 0.0,
                                                         "end_value": rate, "transition_steps": 100}}


def sweep(s):
    """Yields every rate with every seed."""
    return s.product(s.grid({"optimizer": [_adam(rate) for rate in (5e-4, 1e-3, 2e-3, 4e-3)]}), s.seeds(2))


def search(trial):
    """Returns what Optuna is to try."""
    rate = trial.suggest_float("rate", 1e-4, 1e-2, log=True)
    return {"optimizer": _adam(rate), "batch": trial.suggest_categorical("batch", (64, 128))}
