"""SLURM: one batch job whose tasks are the processes; put back into the queue when it ends with 42 and then alone."""

import dataclasses

from launch.job import Job, Rendering

__all__ = ["COMMAND", "NAME", "array", "render"]

NAME = "slurm"
COMMAND = "sbatch"
INSTALL = "run this on a login node of the cluster"
LOG = "jobs/%x-%j.log"

# The tasks hear of the end of the time limit, or of a preemption, two minutes before it.
HEAD = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks}
{more}#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --output={log}
"""
BODY = """
{before}srun --label --kill-on-bad-exit=1 --unbuffered bash {script}
status=$?
if [ "$status" = 42 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
    scontrol requeue "{whole}"
fi
exit "$status"
"""


def render(job: Job, place: str, python: str = "python3") -> Rendering:
    """Returns the batch script and its submission.

    Args:
      job: what is to run.
      place: of the snapshot.
      python: unused.

    Raises:
      ValueError: SLURM cannot do it.
    """
    text = _head(job) + _body(job, f"jobs/{job.name}.sh", "$SLURM_JOB_ID")
    return _rendering(job, job.name, place, text)


def array(jobs: list[Job], name: str, place: str, parallel: int) -> Rendering:
    """Returns one array of jobs alike but for their command.

    Args:
      jobs: in turn.
      name: of the array.
      place: of the snapshot.
      parallel: how many at a time.
    """
    head = _head(jobs[0], name, f"#SBATCH --array=0-{len(jobs) - 1}%{parallel}\n", "jobs/%x-%A_%a.log")
    names = " ".join(job.name for job in jobs)
    before = f"names=({names})\nname=${{names[$SLURM_ARRAY_TASK_ID]}}\n"
    # JOB_ID alone would be the whole array for its last member.
    whole = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    made = _rendering(jobs[0], name, place, head + _body(jobs[0], '"jobs/$name.sh"', whole, before))
    # A line for each member: its array's name, its number, its state.
    return dataclasses.replace(made, status=("squeue", "--me", "--array", "--noheader", "--format=%j %K %T"))


def _head(job: Job, name: str = "", more: str = "", log: str = LOG) -> str:
    _refuse(job)
    nodes, tasks = job.nodes, 1
    if job.accelerator is not None and job.accelerator.is_tpu:
        nodes = job.processes
    elif job.accelerator is not None:
        # jax gives every task of a node the GPU of its number.
        kind, _, count = job.accelerator.name.partition(":")
        tasks, more = int(count), more + f"#SBATCH --gpus-per-node={kind.lower()}:{count}\n"
    return HEAD.format(name=name or job.name, nodes=nodes, tasks=tasks, more=more, log=log)


def _body(job: Job, script: str, whole: str, before: str = "") -> str:
    kind = "" if job.accelerator is None else "tpu" if job.accelerator.is_tpu else "cuda"
    setup = f"bash launch/setup.sh {kind} || exit 2\n" if kind else ""
    return BODY.format(before=setup + before, script=script, whole=whole, restarts=job.restarts)


def _rendering(job: Job, name: str, place: str, text: str) -> Rendering:
    said = ["a job that ends with 42 is put back into the queue; SLURM waits about two minutes before it starts again"]
    if job.accelerator is not None and not job.accelerator.is_tpu:
        said.append("sites name their GPUs as they like: `-- --gpus-per-node=8` sets another")
    return Rendering(
        files={f"jobs/{name}.sbatch": text},
        submit=(("sbatch", f"--chdir={place}", *job.flags, f"jobs/{name}.sbatch"),),
        status=("squeue", f"--name={name}", "--me"),
        logs=("bash", "-c", 'tail -n +1 -F "$0"/jobs/"$1"-*.log', place, name),
        stop=("scancel", f"--name={name}", "--me"),
        said=tuple(said))


def _refuse(job: Job) -> None:
    if job.zones:
        raise ValueError(f"--zone={job.zones[0]}: SLURM has partitions, -- --partition=NAME")
    if job.spot:
        raise ValueError("--spot: SLURM has partitions and QOS, -- --qos=NAME")
    if job.slices > 1:
        raise ValueError(f"--on=slurm joins no slices (--slices={job.slices}); --on=xpk and --on=gcloud do")
