"""SkyPilot's managed jobs: one slice of a TPU on Google Cloud, or GPUs anywhere; it looks for capacity, makes machines
anew after a preemption, and takes them down at the end.

Tried with 0.14.1.  https://docs.skypilot.co
"""

import json
from collections.abc import Mapping
from typing import Any

from launch.job import Job, Rendering

__all__ = ["COMMAND", "NAME", "render", "task"]

NAME = "sky"
COMMAND = "sky"
INSTALL = 'pip install "skypilot[gcp]" in an environment of its own, then sky check'


def render(job: Job, place: str, python: str = "python3") -> Rendering:
    """Returns what SkyPilot is told.

    Args:
      job: what is to run.
      place: of the snapshot.
      python: unused.

    Raises:
      ValueError: SkyPilot cannot do it; what can.
    """
    _refuse(job)
    file = f"jobs/{job.name}.yaml"
    said = ["a small controller VM runs beside the job, and on until `sky down sky-jobs-controller-...`",
            "SkyPilot restarts 42 for ever, and any other failure three times: a bug costs three starts"]
    return Rendering(
        files={file: json.dumps(task(job, place), indent=2, ensure_ascii=False) + "\n"},
        submit=(("sky", "jobs", "launch", file, f"--name={job.name}", "--yes", "--detach-run",
                 *(word for name in job.secrets for word in ("--secret", name)), *job.flags),),
        status=("sky", "jobs", "queue", "--all"),
        logs=("sky", "jobs", "logs", f"--name={job.name}"),
        stop=("sky", "jobs", "cancel", f"--name={job.name}", "--yes"),
        said=tuple(said))


def task(job: Job, place: str) -> dict[str, Any]:
    """Returns SkyPilot's description of the job, whose JSON is YAML as well."""
    assert job.accelerator is not None
    kind = "tpu" if job.accelerator.is_tpu else "cuda"
    return {
        "name": job.name,
        "workdir": place,
        "num_nodes": job.nodes,
        "resources": _resources(job),
        "setup": f"bash launch/setup.sh {kind}",
        "run": f"exec bash jobs/{job.name}.sh",
    } | ({"secrets": dict.fromkeys(job.secrets)} if job.secrets else {})


def _resources(job: Job) -> Mapping[str, Any]:
    assert job.accelerator is not None
    made: dict[str, Any] = {
        "use_spot": job.spot,
        # 134 is not in the list: a bug that leaves it would be started for ever.
        "job_recovery": {"strategy": "EAGER_NEXT_REGION", "max_restarts_on_errors": 3, "recover_on_exit_codes": [42]},
    }
    if job.accelerator.is_tpu:
        made |= {"accelerators": f"tpu-{job.accelerator.name}",
                 # SkyPilot's own choice for v5e is the image of v5p.
                 "accelerator_args": {"runtime_version": job.accelerator.runtime}}
        made |= {"infra": "gcp"} if not job.zones else {}
    else:
        made |= {"accelerators": job.accelerator.name}
    places = [f"gcp/{zone.rpartition('-')[0]}/{zone}" for zone in job.zones]
    if len(places) == 1:
        made["infra"] = places[0]
    elif places:
        made["ordered"] = [{"infra": place} for place in places]
    return made


def _refuse(job: Job) -> None:
    if job.accelerator is None:
        raise ValueError("--on=sky needs --tpu=NAME or --gpu=NAME:COUNT")
    if NAME not in job.accelerator.engines:
        raise ValueError(f"--on=sky does not make {job.accelerator.name}; --on=xpk does")
    if job.accelerator.is_tpu and job.slices > 1:
        raise ValueError(f"--on=sky joins no slices (--slices={job.slices}); --on=xpk and --on=gcloud do")
    if job.accelerator.is_tpu and job.nodes > 1:
        raise ValueError(f"--nodes={job.nodes}: the hosts of a TPU come with its name; leave --nodes out")
