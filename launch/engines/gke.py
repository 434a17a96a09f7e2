"""xpk: a JobSet on Google Kubernetes Engine, queued by Kueue; TPUs to tpu7x, any number of slices, and GPUs.

xpk writes broken manifests with status 0, so what it would submit is read first, as the program that this module also
is: `python -m launch.engines.gke MANIFEST`.  Tried with 1.16.0.  https://github.com/AI-Hypercomputer/xpk
"""

import sys
from pathlib import Path
from typing import Any

from launch.accelerators import GPUS
from launch.job import Job, Rendering

__all__ = ["COMMAND", "NAME", "check", "main", "render"]

NAME = "xpk"
COMMAND = "xpk"
INSTALL = "pip install xpk in an environment of its own; gcloud and kubectl on the PATH"
GRACE = 120  # seconds between SIGTERM and SIGKILL, for a checkpoint


def render(job: Job, place: str, python: str = "python3") -> Rendering:
    """Returns what xpk is told; its manifest is written by a dry run, read, and only then submitted.

    Args:
      job: what is to run.
      place: of the snapshot.
      python: the program that checks the manifest.

    Raises:
      ValueError: xpk cannot do it; what can.
    """
    _refuse(job)
    assert job.accelerator is not None
    kind, _, count = job.accelerator.name.partition(":")
    shape = (f"--tpu-type={kind}", f"--num-slices={job.slices}") if job.accelerator.is_tpu else (
        f"--device-type={GPUS[kind]}-{count}", f"--num-nodes={job.nodes}")
    cluster = job.flag("--cluster") or "CLUSTER"
    lacks = [(word, f"{name}=...") for word, name in (("CLUSTER", "--cluster"), ("IMAGE", "--base-docker-image"))
             if job.flag(name) is None]
    filled = tuple(f"{name.removesuffix('=...')}={word}" for word, name in lacks)
    where = tuple(f"--zone={zone}" for zone in job.zones)
    manifest = f"jobs/{job.name}.manifest.yaml"
    create = ("xpk", "workload", "create", f"--workload={job.name}", *shape, f"--max-restarts={job.restarts}",
              f"--termination-grace-period-seconds={GRACE}", f"--script-dir={place}",
              f"--command=exec bash jobs/{job.name}.sh", *where, *filled, *job.flags)
    return Rendering(
        files={},
        submit=((*create, "--dry-run", f"--output-manifest-file={manifest}"),
                (python, "-m", "launch.engines.gke", manifest), create),
        status=("xpk", "workload", "list", f"--cluster={cluster}", f"--filter-by-job={job.name}", *where),
        logs=("kubectl", "logs", f"--selector=jobset.sigs.k8s.io/jobset-name={job.name}", "--prefix", "--follow",
              "--max-log-requests=256"),
        stop=("xpk", "workload", "delete", f"--workload={job.name}", f"--cluster={cluster}", "--force", *where),
        said=("whether it is spot the cluster's node pool decides",) if job.spot else (),
        lacks=tuple(lacks))


def _refuse(job: Job) -> None:
    if job.accelerator is None:
        raise ValueError("--on=xpk needs --tpu=NAME or --gpu=NAME:8")
    if NAME not in job.accelerator.engines:
        raise ValueError(f"--on=xpk does not make {job.accelerator.name}; --on=sky does")
    if job.flag("--docker-image") is not None:
        raise ValueError("--docker-image holds the code of the day it was built; the job runs a snapshot: give "
                         "--base-docker-image (launch/Dockerfile makes one)")
    if len(job.zones) > 1:
        raise ValueError(f"--zone={','.join(job.zones)}: a cluster lies in one zone; --on=sky tries several")
    if job.secrets:
        raise ValueError(f"--secret={job.secrets[0]}: xpk brings none; keep it in Secret Manager and have the job's "
                         "service account read it")


def check(text: str) -> list[dict[str, Any]]:
    """Returns the JobSets of a manifest.

    Raises:
      ValueError: it is no YAML, or not what was asked for.
    """
    import yaml  # not where nothing but a dry run is wanted

    try:
        documents = [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        raise ValueError(f"the manifest is no YAML: {str(error).splitlines()[0]}") from error
    sets = [document for document in documents if isinstance(document, dict) and document.get("kind") == "JobSet"]
    if not sets:
        raise ValueError("the manifest has no JobSet")
    for made in sets:
        for jobs in made["spec"]["replicatedJobs"]:
            containers = jobs["template"]["spec"]["template"]["spec"]["containers"]
            if not any("exec bash jobs/" in str(part) for each in containers
                       for part in (*each.get("command", ()), *each.get("args", ()))):
                raise ValueError(f"no container of {jobs['name']} runs the job's script")
    return sets


def main(argv: list[str]) -> int:
    """Reads a manifest; returns 0 if it can be submitted, 2 if not."""
    try:
        for made in check(Path(argv[0]).read_text(encoding="utf-8")):
            print(f"{argv[0]}: JobSet {made['metadata']['name']}, "
                  + ", ".join(f"{jobs['replicas']} x {jobs['name']}" for jobs in made["spec"]["replicatedJobs"]))
    except (ValueError, OSError, KeyError, TypeError) as error:
        print(f"launch: xpk wrote what cannot be submitted: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
