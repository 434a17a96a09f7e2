"""Jobs for the tests of engines."""

from launch import accelerators
from launch.job import Job


def job(**changed):
    """A job on four hosts of v5e."""
    given = {"name": "dit", "argv": ("python", "-m", "jaxdiff", "train"), "workdir": "gs://bucket/dit",
             "accelerator": accelerators.tpu("v5litepod-16"), "zones": ()}
    return Job(**given | changed)


def of(on, **changed):
    """A job that an engine can do."""
    given = {"local": {"accelerator": None, "workdir": "/runs/dit"}, "slurm": {"workdir": "/runs/dit"},
             "gcloud": {"zones": ("us-west4-a",)}, "xpk": {"flags": ("--cluster=c", "--base-docker-image=i")}}
    return job(**given.get(on, {}) | changed)
