"""Every engine's own reader accepts what it is told, offline: `make test-more` installs each in a place of its own.

ENGINES names the folder with `sky` and `xpk`, environments that hold them (Makefile).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from jobs import job, of

from launch import accelerators
from launch.engines import engine, gke, queued

pytestmark = pytest.mark.engines
FOLDER = Path(os.environ.get("ENGINES", ".engines")).absolute()


def needs(path):
    """Where an engine could not be installed its test says so."""
    return pytest.mark.skipif(shutil.which(str(path)) is None, reason=f"{path} is not here; make test-more installs it")


VALIDATE = """
import copy, json, sys, pathlib
import sky
home = pathlib.Path.home() / ".sky" / "catalogs" / "v8"
for task in json.load(open(sys.argv[1])):
    made = sky.Task.from_yaml_config(copy.deepcopy(task))
    made.validate()
print("sound")
"""
COLUMNS = ("InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,"
           "AvailabilityZone\n")


def catalogue(home):
    """The few lines of SkyPilot's catalogue that these tasks need."""
    folder = home / ".sky" / "catalogs" / "v8"
    (folder / "gcp").mkdir(parents=True)
    (folder / "common").mkdir()
    names = ("v5litepod-16", "v6e-8", "v5p-16", "v4-32")
    rows = "".join(f",tpu-{name},1,,,tpu-{name},19.2,9.0,us-west4,us-west4-{zone}\n"
                   for name in names for zone in "ab")
    (folder / "gcp" / "vms.csv").write_text(
        COLUMNS + rows + "a3-highgpu-8g,H100,8,208,1872,H100,88.0,40.0,us-west4,us-west4-a\n")
    (folder / "common" / "accelerators.csv").write_text("AcceleratorName,Clouds\nH100,GCP\n")


@needs(FOLDER / "sky" / "bin" / "sky")
def test_skypilot_takes_its_tasks_and_refuses_a_misspelt_one(tmp_path):
    catalogue(tmp_path)
    (tmp_path / "s").mkdir()
    jobs = [job(accelerator=accelerators.tpu(name), spot=spot) for name in ("v5litepod-16", "v6e-8", "v5p-16", "v4-32")
            for spot in (False, True)]
    jobs += [job(zones=("us-west4-a",)), job(zones=("us-west4-a", "us-west4-b")), job(secrets=("TOKEN",)),
             job(accelerator=accelerators.gpu("H100:8"), nodes=2)]
    tasks = [json.loads(engine("sky").render(each, str(tmp_path / "s")).files["jobs/dit.yaml"]) for each in jobs]
    for task in tasks:
        task["secrets"] = dict.fromkeys(task.get("secrets", {}), "given")
    broken = [{**tasks[0], "setpu": "x"}]
    for number, (given, sound) in enumerate(((tasks, True), (broken, False))):
        (tmp_path / f"{number}.json").write_text(json.dumps(given))
        words = [str(FOLDER / "sky" / "bin" / "python"), "-c", VALIDATE, str(tmp_path / f"{number}.json")]
        done = subprocess.run(words, capture_output=True, text=True, check=False,
                              env={**os.environ, "HOME": str(tmp_path)})
        assert ("sound" in done.stdout) == sound, done.stdout[-2000:] + done.stderr[-4000:]


@needs(FOLDER / "xpk" / "bin" / "xpk")
@pytest.mark.parametrize(("changed", "replicas", "hosts"), [
    ({}, 1, 4), ({"slices": 2}, 2, 4), ({"accelerator": accelerators.tpu("v6e-16")}, 1, 4),
    ({"accelerator": accelerators.tpu("v5p-16")}, 1, 2), ({"accelerator": accelerators.tpu("tpu7x-16")}, 1, 2),
    ({"accelerator": accelerators.tpu("v4-32")}, 1, 4),
    ({"accelerator": accelerators.gpu("H100:8"), "nodes": 2}, 1, 2)])
def test_xpk_writes_a_manifest_that_kubernetes_takes(changed, replicas, hosts, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    xpk = FOLDER / "xpk" / "bin"
    env = {**os.environ, "HOME": str(home), "CLOUDSDK_CONFIG": str(home), "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
           "PATH": f"{xpk}:{os.environ['PATH']}"}
    subprocess.run(["xpk", "config", "set", "send-telemetry", "false"], env=env, check=True, capture_output=True)
    (tmp_path / "jobs").mkdir()
    flags = ("--cluster=c", "--base-docker-image=image", "--project=p")
    made = engine("xpk").render(job(zones=("us-central1-a",), flags=flags, **changed), str(tmp_path))
    done = subprocess.run(made.submit[0], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    manifest = tmp_path / "jobs" / "dit.manifest.yaml"
    assert manifest.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    (jobset,) = gke.check(manifest.read_text())
    (group,) = jobset["spec"]["replicatedJobs"]
    assert (group["replicas"], group["template"]["spec"]["parallelism"]) == (replicas, hosts)
    plain = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "dit"}, "spec": group["template"]["spec"]}
    for number, (document, sound) in enumerate(((plain, True), ({**plain, "spec": {**plain["spec"], "paralelism": 1}},
                                                                 False))):
        (tmp_path / f"{number}.yaml").write_text(json.dumps(document))
        done = subprocess.run([str(xpk / "kubernetes-validate"), "--strict", str(tmp_path / f"{number}.yaml")],
                              capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == sound, done.stdout + done.stderr


@needs("gcloud")
@pytest.mark.parametrize("changed", [{}, {"slices": 2}, {"spot": True}, {"flags": ("--valid-until-duration=6h",)}])
def test_gcloud_knows_every_flag(changed, tmp_path):
    """By its own linter, an undocumented command which looks at flags and not at values."""
    env = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false"}
    made = engine("gcloud").render(of("gcloud", **changed), str(tmp_path))
    _, upload, create = made.submit
    words = create[create.index("create") + 1:]
    name, zone, wanted = words[0], words[1], words[2:]
    lines = [upload, made.logs, (*queued.RESOURCES, "create", name, f"--zone={zone}", *wanted, "--async", "--quiet"),
             (*queued.RESOURCES, "delete", name, f"--zone={zone}", "--force", "--quiet"),
             (*queued.RESOURCES, "describe", name, f"--zone={zone}", "--format=value(state.state)")]
    for line in lines:
        text = " ".join(word.replace("--command=sudo journalctl", "--command=x").split(" ")[0] for word in line)
        done = subprocess.run(["gcloud", "meta", "lint-gcloud-commands", f"--command-string={text}"], env=env,
                              capture_output=True, text=True, check=False)
        (found,) = json.loads(done.stdout)
        assert found["success"], found
    done = subprocess.run(["gcloud", "meta", "lint-gcloud-commands", f"--command-string={text} --sopt"], env=env,
                          capture_output=True, text=True, check=False)
    assert not json.loads(done.stdout)[0]["success"]


@needs("systemd-analyze")
def test_systemd_takes_the_units(tmp_path):
    words = {"name": "dit", "zone": "us-west4-a"}
    units = {"dit.service": queued.UNIT.format(restarts=20, **words), "dit-limit.service": queued.LIMIT.format(**words)}
    for name, text in units.items():
        (tmp_path / name).write_text(text)

    def told(*names):
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)],
                              capture_output=True, text=True, check=False,
                              env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"})
        return [line for line in (done.stdout + done.stderr).splitlines() if "dit" in line]

    assert told(*units) == []
    (tmp_path / "dit.service").write_text(units["dit.service"].replace("RestartSec", "RestartSek"))
    assert any("RestartSek" in line for line in told("dit.service"))
