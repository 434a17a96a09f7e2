"""Plain gcloud: a queued resource, for those who cannot use an engine.  Google queues it; systemd on the hosts starts
the command again; the hosts hand the slice back when it is over.  Nobody makes a preempted slice anew: submit again.

As a program, `python -m launch.engines.queued create|status|stop NAME ZONE [WORDS...]`, it decides by what Google says
of that name, once, without waiting.
"""

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.job import Job, Rendering

__all__ = ["COMMAND", "NAME", "create", "describe", "main", "render", "startup", "stop"]

NAME = "gcloud"
COMMAND = "gcloud"
INSTALL = "https://cloud.google.com/sdk/docs/install, then gcloud auth login"
RESOURCES = ("gcloud", "compute", "tpus", "queued-resources")
GONE = "NOT_FOUND"
OVER = ("FAILED", "SUSPENDED")  # what a name is deleted for before it is asked for anew

STARTUP = """#!/bin/bash
# Runs as root at every start of a host.
set -eu
folder=/opt/jaxdiff/{name}
if [ ! -e "$folder/.ready" ]; then
    mkdir -p "$folder"
    gcloud storage cat {tarball} | tar -xz -C "$folder"
    cd "$folder"
    bash launch/setup.sh tpu
    touch "$folder/.ready"
fi
cat > /etc/systemd/system/{name}.service <<'EOF'
{unit}EOF
cat > /etc/systemd/system/{name}-limit.service <<'EOF'
{limit}EOF
systemctl daemon-reload
systemctl start --no-block {name}.service
"""
UNIT = """[Unit]
Description=jaxdiff {name}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=infinity
StartLimitBurst={restarts}
OnFailure={name}-limit.service

[Service]
Environment=HOME=/root
WorkingDirectory=/opt/jaxdiff/{name}
ExecStart=/bin/bash /opt/jaxdiff/{name}/jobs/{name}.sh
ExecStopPost=/bin/bash /opt/jaxdiff/{name}/launch/engines/handback.sh {name} {zone}
Restart=on-failure
RestartSec=10
RestartPreventExitStatus=1 2
TimeoutStopSec=120
"""
LIMIT = """[Unit]
Description=jaxdiff {name}, given up

[Service]
Type=oneshot
ExecStart=/bin/bash /opt/jaxdiff/{name}/launch/engines/handback.sh {name} {zone} over
"""


def render(job: Job, place: str, python: str = "python3") -> Rendering:
    """Returns the start-up script of the hosts, the upload of the snapshot, and the request.

    Args:
      job: what is to run.
      place: of the snapshot.
      python: the program that decides.

    Raises:
      ValueError: the Cloud TPU API cannot do it; what can.
    """
    _refuse(job)
    assert job.accelerator is not None
    zone = job.zones[0] if job.zones else "ZONE"
    tarball = f"{job.workdir.rstrip('/')}/code/{Path(place).name}.tgz"
    script = f"jobs/{job.name}.startup.sh"
    many = (f"--node-count={job.slices}", f"--node-prefix={job.name}") if job.slices > 1 else (f"--node-id={job.name}",)
    wanted = (*many, f"--accelerator-type={job.accelerator.name}", f"--runtime-version={job.accelerator.runtime}",
              *(("--spot",) if job.spot else ()), "--scopes=https://www.googleapis.com/auth/cloud-platform",
              f"--metadata-from-file=startup-script={script}", *job.flags)
    program = (python, "-m", "launch.engines.queued")
    said = ["nobody makes a preempted slice anew: the same command does",
            "the hosts delete the slice when the job is over; their service account needs roles/tpu.admin for that"]
    if job.slices > 1:
        said.append("how Google's runtime joins slices of one queued resource was not tried here; xpk's way was")
    return Rendering(
        files={script: startup(job, zone, tarball)},
        submit=(("tar", "-czf", f"{place}.tgz", "-C", place, "."),
                ("gcloud", "storage", "cp", f"{place}.tgz", tarball),
                (*program, "create", job.name, zone, *wanted)),
        status=(*program, "status", job.name, zone),
        logs=("gcloud", "compute", "tpus", "queued-resources", "ssh", job.name, f"--zone={zone}", "--worker=all",
              "--node=all", f"--command=sudo journalctl --follow --lines=200 --unit={job.name}"),
        stop=(*program, "stop", job.name, zone),
        said=tuple(said), lacks=() if job.zones else (("ZONE", "--zone=..."),))


def startup(job: Job, zone: str, tarball: str) -> str:
    """Returns what every host runs when it starts.

    Args:
      job: what is to run.
      zone: of the slice.
      tarball: where the snapshot lies, a bucket's address.
    """
    words = {"name": job.name, "zone": zone}
    return STARTUP.format(tarball=shlex.quote(tarball), unit=UNIT.format(restarts=job.restarts, **words),
                          limit=LIMIT.format(**words), **words)


def _refuse(job: Job) -> None:
    if job.accelerator is None or not job.accelerator.is_tpu:
        raise ValueError("--on=gcloud makes TPUs alone, --tpu=NAME; GPUs go by --on=sky")
    if NAME not in job.accelerator.engines:
        raise ValueError(f"--on=gcloud: Google's Cloud TPU API has no {job.accelerator.name}; --on=xpk does")
    if not job.workdir.startswith("gs://"):
        raise ValueError(f"--workdir={job.workdir}: the slice is deleted at the end; give gs://BUCKET/FOLDER")
    if len(job.zones) > 1:
        raise ValueError(f"--zone={','.join(job.zones)}: a queued resource is of one zone; --on=sky tries several")
    if job.secrets:
        raise ValueError(f"--secret={job.secrets[0]}: start-up scripts are readable by all who may see the VM; keep it "
                         "in Secret Manager and have the job's service account read it")
    if job.nodes > 1:
        raise ValueError(f"--nodes={job.nodes}: the hosts of a TPU come with its name; leave --nodes out")


def _run(words: Sequence[str]) -> tuple[int, str, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def describe(name: str, zone: str, run: Callable = _run) -> str:
    """Returns the state of a name, such as ACTIVE, or NOT_FOUND.

    Raises:
      RuntimeError: Google did not say.
    """
    status, out, err = run((*RESOURCES, "describe", name, f"--zone={zone}", "--format=value(state.state)"))
    if status == 0 and out:
        return out.splitlines()[-1].strip()
    if GONE in err or "not found" in err.lower():
        return GONE
    raise RuntimeError(f"what there is of {name} in {zone} is not known: {err or 'gcloud said nothing'}")


def create(name: str, zone: str, words: Sequence[str], run: Callable = _run, say: Callable = print) -> int:
    """Sees to it that there is one resource of that name; returns 0 if there is.

    Raises:
      RuntimeError: Google did not say whether there is.
    """
    state = describe(name, zone, run)
    if state in OVER:
        say(f"{name}: {state}, deleted and asked for anew")
        run((*RESOURCES, "delete", name, f"--zone={zone}", "--force", "--quiet"))
        state = describe(name, zone, run)
    if state in (*OVER, "SUSPENDING", "DELETING"):
        say(f"{name}: still {state}; submit again in some minutes")
        return 1
    if state != GONE:
        say(f"{name}: {state} already, and left as it is")
        return 0
    status, _, err = run((*RESOURCES, "create", name, f"--zone={zone}", *words, "--async", "--quiet"))
    if status:  # the answer may have been lost, not the request
        state = describe(name, zone, run)
        if state == GONE:
            say(f"{name}: not made: {err}")
            return 1
    say(f"{name}: asked for" if not status else f"{name}: {state}, though gcloud said: {err}")
    return 0


def stop(name: str, zone: str, run: Callable = _run, say: Callable = print) -> int:
    """Deletes what there is of that name; returns 0 only if nothing is left.

    Raises:
      RuntimeError: Google did not say whether something is.
    """
    if describe(name, zone, run) != GONE:
        run((*RESOURCES, "delete", name, f"--zone={zone}", "--force", "--quiet"))
        state = describe(name, zone, run)
        if state != GONE:
            say(f"{name}: still {state}, which may cost; stop again in some minutes")
            return 1
    say(f"{name}: {GONE}")
    return 0


def main(argv: Sequence[str]) -> int:
    """Runs one of the three; returns the exit status, 3 from `status` where there is nothing of the name."""
    verb, name, zone, *words = argv
    try:
        if verb == "create":
            return create(name, zone, words)
        if verb == "stop":
            return stop(name, zone)
        state = describe(name, zone)
        print(f"{name}: {state}" + (", nobody makes it anew: submit again" if state in OVER else ""))
        return 3 if state == GONE else 0
    except RuntimeError as error:
        print(f"launch: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
