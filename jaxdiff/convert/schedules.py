"""What the scheduler of a diffusers folder says of the process, and of what the network predicts."""

from typing import Any

__all__ = ["DISCRETE", "FLOW", "flow", "noise"]

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
DISCRETE, FLOW = "jaxdiff.process:Discrete", "jaxdiff.process:RectifiedFlow"


def noise(schedule: dict[str, Any], usual: dict[str, Any]) -> tuple[dict, dict | None]:
    """Returns process and parameterization, parts of a config, of `scheduler_config.json`.

    Args:
      schedule: what it holds; {} gives the process `usual`, and no parameterization.
      usual: a `Discrete`.

    Raises:
      ValueError: betas of another kind, or another prediction.
    """
    if not schedule:
        return usual, None
    if "beta_schedule" not in schedule or schedule["beta_schedule"] not in SCHEDULES or schedule.get("trained_betas"):
        raise ValueError(f"the scheduler's betas are not of a kind that is here: {schedule.get('beta_schedule')!r}; "
                         f"it may be {', '.join(SCHEDULES)}, without trained_betas")
    betas = SCHEDULES[schedule["beta_schedule"]]
    process: dict[str, Any] = {"name": "Discrete", "schedule": betas, "levels": schedule["num_train_timesteps"]}
    if betas != "cosine":
        process |= {"beta_min": schedule["beta_start"], "beta_max": schedule["beta_end"]}
    predicts = schedule.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        raise ValueError(f"the scheduler's prediction_type is {predicts!r}; it may be {', '.join(PREDICTIONS)}")
    if schedule.get("rescale_betas_zero_snr"):
        process = {"name": "ZeroTerminalSNR", "process": {**process, "name": DISCRETE}}
    return process, {"name": PREDICTIONS[predicts], "noise": shown(process)}


def shown(process: dict[str, Any]) -> dict[str, Any]:
    """Returns what a network with the timesteps of a table is shown."""
    levels = process["process"]["levels"] if "process" in process else process.get("levels", 1000)
    return {"name": "timestep", "process": {**process, "name": f"jaxdiff.process:{process['name']}"},
            "scale": float(levels)}


def flow(schedule: dict[str, Any]) -> tuple[dict, dict]:
    """Returns process and parameterization of a flow whose network is shown 1000 t; `shift` moves its grid."""
    shown = {"name": "timestep", "process": {"name": FLOW}, "offset": 0.0}
    factor = float(schedule["shift"]) if "shift" in schedule else 1.0
    straight: dict[str, Any] = {"name": "RectifiedFlow"}
    process = straight if factor == 1 else {"name": "Shift", "process": {"name": FLOW}, "factor": factor}
    return process, {"name": "velocity", "raw": True, "noise": shown}
