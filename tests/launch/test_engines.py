"""What each engine is told, and what it is not asked for because it cannot do it."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import job, of

from launch import accelerators
from launch.engines import MODULES, engine, gke, here, slurm

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def words(made):
    return [word for command in made.submit for word in command]


@pytest.mark.parametrize("on", MODULES)
def test_rendering_is_pure_and_commands_are_lists(on, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no engine is installed
    first, second = (engine(on).render(of(on), str(tmp_path)) for _ in range(2))
    assert first == second
    assert list(tmp_path.iterdir()) == []
    for command in (*first.submit, first.status, first.logs, first.stop):
        assert command
        assert all(isinstance(word, str) for word in command)


def test_an_unknown_engine_comes_with_the_nearest():
    with pytest.raises(ValueError, match="--on=slrum: no such engine; did you mean slurm"):
        engine("slrum")


@pytest.mark.parametrize(("on", "changed", "said"), [
    ("sky", {"slices": 2}, "joins no slices.*--on=xpk"),
    ("sky", {"accelerator": accelerators.tpu("tpu7x-8")}, "--on=xpk does"),
    ("sky", {"accelerator": None}, "needs --tpu"),
    ("sky", {"nodes": 2}, "leave --nodes out"),
    ("xpk", {"accelerator": accelerators.tpu("v3-8")}, "--on=sky does"),
    ("xpk", {"accelerator": accelerators.tpu("v5litepod-4")}, "--on=sky does"),
    ("xpk", {"accelerator": accelerators.gpu("L4:1")}, "--on=sky does"),
    ("xpk", {"flags": ("--docker-image=x",)}, "--base-docker-image"),
    ("xpk", {"zones": ("a", "b")}, "--on=sky tries several"),
    ("xpk", {"secrets": ("TOKEN",)}, "Secret Manager"),
    ("gcloud", {"accelerator": accelerators.tpu("tpu7x-8")}, "--on=xpk does"),
    ("gcloud", {"accelerator": accelerators.gpu("H100:8")}, "GPUs go by --on=sky"),
    ("gcloud", {"workdir": "/runs"}, "gs://BUCKET"),
    ("gcloud", {"zones": ("a", "b")}, "--on=sky tries several"),
    ("gcloud", {"secrets": ("TOKEN",)}, "Secret Manager"),
    ("slurm", {"zones": ("a",)}, "--partition"),
    ("slurm", {"spot": True}, "--qos"),
    ("slurm", {"slices": 2}, "--on=xpk"),
    ("local", {"spot": True}, "makes no sense"),
    ("local", {"flags": ("--x",)}, "takes no flags"),
    ("local", {"accelerator": accelerators.tpu("v6e-8"), "nodes": 2}, "already says"),
])
def test_what_an_engine_cannot_do_is_refused_with_what_can(on, changed, said):
    with pytest.raises(ValueError, match=said):
        engine(on).render(of(on, **changed), "/snapshot")


def test_sky_restarts_on_42_and_takes_the_image_of_v5e():
    made = engine("sky").render(job(spot=True, zones=("us-west4-a", "europe-west4-b"), secrets=("TOKEN",)), "/s")
    task = json.loads(made.files["jobs/dit.yaml"])
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [42]
    assert task["resources"]["accelerator_args"] == {"runtime_version": "v2-alpha-tpuv5-lite"}
    assert task["resources"]["ordered"] == [{"infra": "gcp/us-west4/us-west4-a"},
                                            {"infra": "gcp/europe-west4/europe-west4-b"}]
    assert task["run"] == "exec bash jobs/dit.sh"
    assert task["secrets"] == {"TOKEN": None}
    assert ("--secret", "TOKEN") == made.submit[0][-2:]
    gpus = engine("sky").render(job(accelerator=accelerators.gpu("A100:4"), nodes=2), "/s")
    task = json.loads(gpus.files["jobs/dit.yaml"])
    assert (task["num_nodes"], task["resources"]["accelerators"], task["setup"]) == (2, "A100:4",
                                                                                    "bash launch/setup.sh cuda")


def test_xpk_checks_the_manifest_between_the_dry_run_and_the_submission():
    made = engine("xpk").render(job(slices=2, spot=True), "/s", "python")
    dry, check, real = made.submit
    assert dry == (*real, "--dry-run", "--output-manifest-file=jobs/dit.manifest.yaml")
    assert check == ("python", "-m", "launch.engines.gke", "jobs/dit.manifest.yaml")
    assert {"--tpu-type=v5litepod-16", "--num-slices=2", "--max-restarts=20", "--cluster=CLUSTER",
            "--base-docker-image=IMAGE", "--command=exec bash jobs/dit.sh"} <= set(real)
    assert [word for word, _ in made.lacks] == ["CLUSTER", "IMAGE"]
    assert "node pool decides" in made.said[0]
    assert "--device-type=h100-mega-80gb-8" in words(
        engine("xpk").render(job(accelerator=accelerators.gpu("H100:8"), nodes=2), "/s"))


GOOD = """
kind: JobSet
metadata: {name: dit}
spec:
  replicatedJobs:
  - name: slice
    replicas: 2
    template:
      spec: {template: {spec: {containers: [{name: c, command: [bash, -c, "(exec bash jobs/dit.sh) & wait"]}]}}}
"""


@pytest.mark.parametrize(("text", "said"), [
    (GOOD, None), (GOOD.replace("{name: dit}", '{name: "di"t"}'), "no YAML"),
    (GOOD.replace("JobSet", "Job"), "no JobSet"),
    (GOOD.replace("exec bash jobs", "bash other"), "runs the job's script"), ("", "no JobSet"),
    (GOOD.replace("replicatedJobs", "jobs"), "replicatedJobs")])
def test_a_broken_manifest_is_not_submitted(text, said, tmp_path, capsys):
    (tmp_path / "m.yaml").write_text(text)
    assert gke.main([str(tmp_path / "m.yaml")]) == (0 if said is None else 2)
    assert said is None or said in capsys.readouterr().err


def test_slurm_asks_for_the_hosts_of_a_tpu_and_for_a_task_a_gpu():
    tpu = engine("slurm").render(of("slurm"), "/s").files["jobs/dit.sbatch"]
    assert "--nodes=4" in tpu
    assert "--ntasks-per-node=1" in tpu
    gpu = engine("slurm").render(of("slurm", accelerator=accelerators.gpu("H100:8"), nodes=2), "/s")
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=8", "#SBATCH --gpus-per-node=h100:8"} <= set(
        gpu.files["jobs/dit.sbatch"].splitlines())
    flags = engine("slurm").render(of("slurm", flags=("--partition=long",)), "/s").submit[0]
    assert flags == ("sbatch", "--chdir=/s", "--partition=long", "jobs/dit.sbatch")


@pytest.mark.parametrize("status", [0, 1, 2, 42, 134, 143])
@pytest.mark.parametrize("count", [0, 20])
def test_slurm_puts_back_a_42_alone_and_not_for_ever(status, count, tmp_path):
    text = engine("slurm").render(of("slurm", accelerator=None), str(tmp_path)).files["jobs/dit.sbatch"]
    stand_ins = f'srun() {{ return {status}; }}\nscontrol() {{ echo "$@" > {tmp_path}/back; }}\n'
    done = subprocess.run(["bash", "-c", stand_ins + text], check=False,
                          env={"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(count), "PATH": "/usr/bin:/bin"})
    assert done.returncode == status
    back = (tmp_path / "back").read_text().strip() if (tmp_path / "back").exists() else None
    assert back == ("requeue 7" if status == 42 and count < 20 else None)


def test_a_slurm_array_runs_each_trial_by_its_name_and_puts_back_that_one(tmp_path):
    jobs = [of("slurm", name=name, accelerator=None) for name in ("a", "b", "c")]
    made = slurm.array(jobs, "sweep", str(tmp_path), 2)
    text = made.files["jobs/sweep.sbatch"]
    assert "#SBATCH --array=0-2%2" in text
    out = f'srun() {{ echo "$@" >> {tmp_path}/ran; return 42; }}\nscontrol() {{ echo "$@" >> {tmp_path}/ran; }}\n'
    subprocess.run(["bash", "-c", out + text], check=False, env={
        "SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "PATH": "/usr/bin:/bin"})
    ran, back = (tmp_path / "ran").read_text().splitlines()
    assert ran.endswith("bash jobs/b.sh")
    assert back == "requeue 7_1"


def test_local_rehearses_the_shape_of_a_tpu():
    made = engine("local").render(of("local", accelerator=accelerators.tpu("v5litepod-16")), "/s")
    assert {"--processes=4", "--devices=4"} <= set(made.submit[0])
    assert here.virtual(job(accelerator=accelerators.tpu("v3-32"))) == 8
    assert "rehearsal" in made.said[0]


def sources():
    return sorted(LAUNCH.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(LAUNCH)))
def test_nothing_polls_but_the_engine_that_is_this_machine_and_nothing_imports_jax(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name != "here.py":
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.While)]
        assert "sleep" not in {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
        assert not {name.partition(".")[0] for name in names} & {"jax", "jaxdiff", "flax"}


def test_a_dry_run_needs_neither_jax_nor_an_engine(tmp_path):
    told = ("import sys; import launch.run, launch.sweep; from launch.engines import engine, MODULES\n"
            "for on in MODULES: engine(on)\n"
            "assert not {'jax', 'jaxdiff', 'yaml', 'optuna', 'matplotlib'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", told], cwd=LAUNCH.parent, check=True)


def test_no_module_bears_the_name_of_what_it_drives():
    assert not {path.stem for path in sources()} & {"sky", "xpk", "gcloud", "kubernetes", "optuna", "sbatch", "kubectl"}


def test_scripts_are_sound_bash(tmp_path):
    made = engine("gcloud").render(of("gcloud"), str(tmp_path))
    for number, text in enumerate([*made.files.values(), (LAUNCH / "setup.sh").read_text(),
                                   (LAUNCH / "engines" / "handback.sh").read_text()]):
        (tmp_path / f"{number}.sh").write_text(text)
        subprocess.run(["bash", "-n", f"{number}.sh"], cwd=tmp_path, check=True)
