"""What is looked at before money is spent, and what it will cost."""

import json
import types

import pytest
from jobs import job

from launch import accelerators, checks

PLAN = {"steps": 1000, "chip": {"limit": 16 * 2 ** 30}, "programs": {"train": {
    "fits": True, "held": 2 ** 30, "roofline": {"step_s": 0.36}, "predicted": {"mfu": 0.8}}}}


@pytest.mark.parametrize(("workdir", "on", "said"), [
    ("runs/dit", "sky", "take their disks along"), ("/runs", "gcloud", "take their disks along"),
    ("s3://b/f", "xpk", "gs://BUCKET/FOLDER"), ("gs://b", "sky", "a folder in it"),
    ("gs://Bucket/f", "sky", "lower case"), ("gs://bucket/f[1]", "gcloud", "patterns"),
    (" ", "local", "without blanks"), ("a\nb", "local", "control character")])
def test_a_work_folder_that_would_be_lost_or_misread_is_refused(workdir, on, said):
    with pytest.raises(ValueError, match=said):
        checks.where(workdir, on)


def test_a_work_folder_is_the_same_from_every_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checks.where("runs/it's", "local") == str(tmp_path / "runs" / "it's")
    assert checks.where("gs://bucket/a b", "sky") == "gs://bucket/a b"


def test_an_engine_that_is_not_installed_is_said_with_how_to(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"--on=sky needs the command sky.*pip install.*--dry-run needs none"):
        checks.engine_there(types.SimpleNamespace(NAME="sky", COMMAND="sky", INSTALL='pip install "skypilot[gcp]"'))


def test_hours_are_a_range_from_the_bound_to_forty_per_cent():
    steps, low, high = checks.estimate(PLAN, accelerators.tpu("v5litepod-16"), 2)
    assert (steps, low, high) == (1000, pytest.approx(3.2), pytest.approx(6.4))
    slow = {**PLAN, "programs": {"train": {**PLAN["programs"]["train"], "predicted": {"mfu": 0.1}}}}
    assert checks.estimate(slow, accelerators.tpu("v5litepod-16"), 2)[1:] == (pytest.approx(3.2), pytest.approx(3.2))


def test_dollars_come_with_a_source_and_a_date_or_not_at_all(tmp_path):
    table = tmp_path / "prices.csv"
    table.write_text((checks.HERE / "prices.csv").read_text())
    assert checks.price(job(), None, table, tmp_path) is None
    assert "price unknown" in checks.cost(job(), PLAN, None)
    table.write_text(table.read_text() + "v5litepod-16,us-west4-a,no,1.2,invoice,2026-11-01\n"
                                         "v5litepod-16,,yes,0.5,invoice,2026-11-02\n")
    assert checks.price(job(zones=("us-west4-a",)), None, table, tmp_path) == checks.Price(1.2, "invoice", "2026-11-01")
    assert checks.price(job(zones=("us-east1-c",)), None, table, tmp_path) is None
    spot = checks.price(job(spot=True, zones=("us-east1-c",)), None, table, tmp_path)
    assert spot.dollars == 0.5
    told = checks.cost(job(spot=True), PLAN, spot)
    assert "16 chips; 1,000 steps in 1.6 to 3.2 chip-hours" in told
    assert "0.80 to 1.60 $; 8.00 $/h (invoice, 2026-11-02)" in told
    assert checks.price(job(), 3.0, table, tmp_path).source == "--price"


def test_skypilots_catalogue_is_read_and_its_stand_ins_are_not_believed(tmp_path):
    folder = tmp_path / ".sky" / "catalogs" / "v8" / "gcp"
    folder.mkdir(parents=True)
    (folder / "vms.csv").write_text(
        "InstanceType,AcceleratorName,AcceleratorCount,Price,SpotPrice,Region,AvailabilityZone\n"
        ",tpu-v5litepod-16,1,19.2,nan,us-west4,us-west4-a\n,tpu-v5litepod-16,1,700.0,8.0,us-east1,us-east1-c\n"
        "a3,H100,8,88.0,,us-east1,us-east1-c\n")
    empty = checks.HERE / "prices.csv"
    assert checks.price(job(), None, empty, tmp_path).dollars == pytest.approx(1.2)
    assert checks.price(job(spot=True), None, empty, tmp_path).dollars == pytest.approx(0.5)
    assert checks.price(job(zones=("us-east1-c",)), None, empty, tmp_path) is None
    assert checks.price(job(accelerator=accelerators.gpu("H100:8")), None, empty, tmp_path).dollars == 11.0
    assert "catalogue" in checks.price(job(), None, empty, tmp_path).source


def planner(tmp_path, monkeypatch, told, status=0):
    """A jaxdiff that answers so."""
    (tmp_path / "jaxdiff").mkdir()
    (tmp_path / "jaxdiff" / "__main__.py").write_text(
        f"import sys, json\nopen('asked', 'w').write(json.dumps(sys.argv[1:]))\nprint({json.dumps(told)!r})\n"
        f"sys.exit({status})\n")
    return checks.plan(job(slices=2), ["--config=c.py", "--config.batch=8"], tmp_path)


def test_the_plan_is_asked_for_the_slice_with_its_hosts(tmp_path, monkeypatch):
    assert planner(tmp_path, monkeypatch, PLAN) == PLAN
    asked = json.loads((tmp_path / "asked").read_text())
    assert {"plan", "--json", "--topology=v5e:4x4", "--slices=2", "--effort=-1", "--config=c.py",
            "--config.batch=8"} <= set(asked)
    small = job(accelerator=accelerators.tpu("v5litepod-8"))
    checks.plan(small, [], tmp_path)
    assert "--host_bounds=2,4,1" in json.loads((tmp_path / "asked").read_text())


def test_what_does_not_fit_is_not_submitted(tmp_path, monkeypatch):
    big = {**PLAN, "programs": {"train": {"fits": False, "held": 20 * 2 ** 30}}}
    with pytest.raises(ValueError, match=r"needs 20.00 GiB of a chip of v5litepod-16, which has 16.00.*fsdp"):
        planner(tmp_path, monkeypatch, big, 1)


def test_a_config_that_does_not_build_is_not_submitted(tmp_path):
    (tmp_path / "jaxdiff").mkdir()
    (tmp_path / "jaxdiff" / "__main__.py").write_text("import sys; sys.exit(2)\n")
    with pytest.raises(ValueError, match=r"does not build for v5litepod-16 .*ended with 2"):
        checks.plan(job(), [], tmp_path)
