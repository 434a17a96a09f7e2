"""What the README shows is what happens."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_api_example_runs_and_learns_the_mixture(capsys):
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    exec(compile(code, "README.md", "exec"), {})
    distance, nfe, nats = map(float, capsys.readouterr().out.split())
    # Between two draws of 4,096 and 8,192 from the mixture itself it is about 0.0005; between the mixture and one
    # Gaussian component, above 0.5.
    assert 0 < distance < 0.02
    assert nfe == 12
    assert -1.6 < nats < -0.8  # the mixture's entropy is 1.19, of which 64 samples see one deviation as .1


def test_the_demo_runs_the_commands_that_are_shown():
    shown = re.findall(r"^jaxdiff .*$", README, re.MULTILINE)[:4]
    demo = (ROOT / "Makefile").read_text()
    for command in shown:
        assert f".venv/bin/{command}" in demo


def test_every_file_it_points_to_is_there():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
