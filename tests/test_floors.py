"""The staircase of shared/DESIGN.md, its sizes and its house rules, read from the source.

A rule takes a `File` and yields what is wrong with it; `BAD` and `GOOD` show that each can fail and pass.
"""

import ast
import dataclasses
import functools
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("jaxdiff", "configs", "launch", "tests", "benchmarks")

# A module imports only from lower floors and from its own folder.  A bar is half a flight: what is
# right of it may also import what is left of it.
FLOORS = {
    0: "protocols build",
    1: "process parameterization layers mesh processes flops foreign data hlo | times",
    2: "denoiser networks metrics | walk",
    3: "objective guidance samplers likelihood inverse train adapt convert",
    4: "checkpoint loop sample plan report tables workdir pace | hooks attempts",
    5: "evaluate audit explain",
    6: "experiment overrides | transfer latents inspection planning",
    7: "flags verbs | main studio",
}
FLOOR = {
    room: number + half / 2
    for number, flights in FLOORS.items()
    for half, rooms in enumerate(flights.split("|"))
    for room in rooms.split()
}

FILE_LINES, MEDIAN_LINES, FUNCTION_LINES, MOST_FUNCTIONS_LINES, MOST = 400, 160, 80, 45, 0.95
LONGER = {"fit": 120}
DOCSTRING_LINES = 30
EMPTY_WORDS = {"util", "utils", "helper", "helpers", "common", "base", "manager", "managers"}
NAMESAKES = {"jaxdiff/build.py", "jaxdiff/main.py", "jaxdiff/walk.py"}  # contracts; no `__init__` shadows these
LINEN_OWN = {
    "GroupNorm", "LayerNorm", "RMSNorm", "InstanceNorm", "BatchNorm", "MultiHeadAttention",
    "MultiHeadDotProductAttention", "SelfAttention", "dot_product_attention", "dot_product_attention_weights",
}
LATE = {"clu.metric_writers", "tensorboard", "tensorflow"}  # seconds to import, and only writers need them
LEFTOVER = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X])\b")


@dataclasses.dataclass(frozen=True)
class File:
    """A source file: its path from the root of the checkout, and its text."""

    path: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def parts(self) -> tuple[str, ...]:
        """`jaxdiff/samplers/edm.py` is `("jaxdiff", "samplers", "edm")`."""
        return PurePosixPath(self.path).with_suffix("").parts

    @property
    def room(self) -> str:
        """The name in `FLOORS` that this module of jaxdiff is under; `__main__` is with `main`."""
        return self.parts[1].strip("_")

    def nodes(self, *kinds: type) -> Iterator:
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))

    def public(self) -> Iterator:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        return (node for node in self.tree.body if isinstance(node, kinds) and not node.name.startswith("_"))


def files() -> list[File]:
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return [File(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


def functions(file: File) -> Iterator[tuple[ast.FunctionDef, int]]:
    for node in file.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        yield node, node.end_lineno - node.lineno + 1


# What a file imports.


def imported(file: File, tree: ast.AST | None = None) -> Iterator[tuple[int, str]]:
    """Yields (line, full dotted name); `from a import b` gives `a.b`."""
    for node in ast.walk(tree or file.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{origin(file, node)}.{alias.name}") for alias in node.names)


def origin(file: File, node: ast.ImportFrom) -> str:
    """The full name of the module that `from ... import` reads, whatever number of dots it has."""
    above = file.parts[: len(file.parts) - node.level] if node.level else ()
    return ".".join([*above, *filter(None, [node.module])])


def uses(file: File) -> Iterator[tuple[ast.AST, str]]:
    """Yields each name or attribute that leads to an import, with its full dotted name."""
    home = {}  # local name -> full name
    for node in file.nodes(ast.Import):
        home |= {alias.asname: alias.name for alias in node.names if alias.asname}
        home |= {top: top for alias in node.names if not alias.asname for top in [alias.name.partition(".")[0]]}
    for node in file.nodes(ast.ImportFrom):
        home |= {alias.asname or alias.name: f"{origin(file, node)}.{alias.name}" for alias in node.names}
    for node in file.nodes(ast.Name, ast.Attribute):
        names, inner = [], node
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in home:
            yield node, ".".join([home[inner.id], *reversed(names)])


# Rules.


def keeps_to_its_floor(file: File) -> Iterator[str]:
    """Imports come from lower floors or from the module's own folder; every module has a floor."""
    if file.path == "jaxdiff/__init__.py":
        yield from (f"line {line}: the package itself imports nothing, not {name}" for line, name in imported(file))
        return
    if file.room not in FLOOR:
        yield f"{file.room!r} has no floor: give it one in FLOORS and in shared/DESIGN.md"
        return
    for line, name in imported(file):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top != "jaxdiff" or other in ("", "__version__", file.room):
            continue
        if other not in FLOOR:
            yield f"line {line}: {name} has no floor"
        elif FLOOR[other] >= FLOOR[file.room]:
            yield f"line {line}: floor {FLOOR[file.room]:g} ({file.room}) imports floor {FLOOR[other]:g} ({other})"


def keeps_launch_apart(file: File) -> Iterator[str]:
    """What carries a command to machines and what the command does know nothing of each other."""
    other = {"jaxdiff": "launch", "launch": "jaxdiff"}[file.parts[0]]
    for line, name in imported(file):
        if name.partition(".")[0] == other:
            yield f"line {line}: {file.parts[0]} imports {name}"


def imports_writers_late(file: File) -> Iterator[str]:
    """TensorFlow and what needs it are imported inside the function that makes a writer."""
    late = {line for node, _ in functions(file) for line, _ in imported(file, node)}
    for line, name in imported(file):
        if line not in late and any(f"{name}.".startswith(f"{slow}.") for slow in LATE):
            yield f"line {line}: import {name} inside the function that needs it"


def is_short(file: File) -> Iterator[str]:
    """No file and no function outgrows its ceiling."""
    lines = file.text.count("\n")
    if lines > FILE_LINES:
        yield f"{lines} lines, at most {FILE_LINES}"
    for node, length in functions(file):
        most = LONGER.get(node.name, FUNCTION_LINES)
        if length > most:
            yield f"line {node.lineno}: {node.name} has {length} lines, at most {most}"


def is_named_for_what_it_holds(file: File) -> Iterator[str]:
    """No utils, helpers or managers; no file named as a function it exports, which would hide one or the other."""
    for part in file.parts:
        if EMPTY_WORDS & set(part.lower().split("_")):
            yield f"{part!r} says nothing about what is in it"
    if file.path not in NAMESAKES:
        for node in file.public():
            if node.name == file.parts[-1]:
                yield f"line {node.lineno}: file and {node.name!r} have one name"


def lists_public_names(file: File) -> Iterator[str]:
    """A folder's `__init__` that imports says in `__all__` what is public."""
    if file.parts[-1] == "__init__" and any(imported(file)):
        targets = [target for node in file.tree.body if isinstance(node, ast.Assign) for target in node.targets]
        if not any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            yield "imports, and has no __all__"


def never_gets(file: File) -> Iterator[str]:
    """`.get(` slips past a config's lock."""
    for node in file.nodes(ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            yield f"line {node.lineno}: .get( is forbidden here, a misspelt key would pass"


def leaves_linen_to_layers(file: File) -> Iterator[str]:
    """Norms and attention come from `layers`, where statistics and logits are float32."""
    for node, name in uses(file):
        if name.startswith(("flax.", "jax.")) and name.rpartition(".")[2] in LINEN_OWN:
            yield f"line {node.lineno}: {name} is used in layers/ only"


def norms_take_two_passes(file: File) -> Iterator[str]:
    """Linen's default, E[x²] − E[x]², is wrong by more than 1 at an offset of 1,000."""
    right = set()
    for node in file.nodes(ast.Call):
        options = {option.arg: option.value for option in node.keywords}
        value = options.get("use_fast_variance")
        if isinstance(value, ast.Constant) and value.value is False:
            right.add(node.func)
    for node, name in uses(file):
        if re.fullmatch(r"flax\.linen(\.\w+)*\.(Group|Layer|RMS|Instance|Batch)Norm", name) and node not in right:
            yield f"line {node.lineno}: {name} without use_fast_variance=False"


def leaves_nothing_for_later(file: File) -> Iterator[str]:
    """What is left to do is an issue, not a comment or a docstring."""
    for token in tokenize.generate_tokens(io.StringIO(file.text).readline):
        if token.type == tokenize.COMMENT and LEFTOVER.search(token.string):
            yield f"line {token.start[0]}: {token.string}"
    for node in file.nodes(ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef):
        if LEFTOVER.search(ast.get_docstring(node) or ""):
            yield f"the docstring of {getattr(node, 'name', 'the module')} leaves something for later"


def is_explained(file: File) -> Iterator[str]:
    """The module and all that is public in it have a docstring; the module's is short."""
    doc = ast.get_docstring(file.tree)
    if not doc:
        yield "the module has no docstring"
    elif doc.count("\n") >= DOCSTRING_LINES:
        yield f"the module's docstring has {doc.count(chr(10)) + 1} lines, at most {DOCSTRING_LINES}"
    for node in file.public():
        if not ast.get_docstring(node):
            yield f"line {node.lineno}: {node.name} has no docstring"


RULES = {  # rule -> the files it is for
    keeps_to_its_floor: "jaxdiff/",
    keeps_launch_apart: "(jaxdiff|launch)/",
    imports_writers_late: "jaxdiff/",
    is_short: "",
    is_named_for_what_it_holds: "",
    lists_public_names: "(jaxdiff|launch)/",
    never_gets: r"jaxdiff/(experiment/|main\.py)|configs/",
    leaves_linen_to_layers: "jaxdiff/(?!layers/)",
    norms_take_two_passes: "jaxdiff/layers/",
    leaves_nothing_for_later: "",
    is_explained: "(jaxdiff|launch|configs)/",
}


def most_functions_are_short(package: list[File]) -> Iterator[str]:
    """Most functions are seen whole on a screen."""
    lengths = [length for file in package for _, length in functions(file)]
    share = sum(length <= MOST_FUNCTIONS_LINES for length in lengths) / max(len(lengths), 1)
    if share < MOST:
        yield f"{share:.1%} of {len(lengths)} functions are within {MOST_FUNCTIONS_LINES} lines, at least {MOST:.0%}"


def the_median_file_is_short(package: list[File]) -> Iterator[str]:
    """Half of the files are read in a few minutes."""
    median = statistics.median(file.text.count("\n") for file in package)
    if median > MEDIAN_LINES:
        yield f"the median file has {median:.0f} lines, at most {MEDIAN_LINES}"


@pytest.mark.parametrize("file", files(), ids=lambda file: file.path)
def test_file(file):
    rules = [rule for rule, where in RULES.items() if re.match(where, file.path)]
    problems = [f"{file.path}: {problem} [{rule.__name__}]" for rule in rules for problem in rule(file)]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize("rule", [most_functions_are_short, the_median_file_is_short], ids=lambda rule: rule.__name__)
def test_package(rule):
    package = [file for file in files() if file.parts[0] == "jaxdiff"]
    assert len(package) > 20
    assert not list(rule(package))


def test_every_room_has_one_floor():
    assert len(FLOOR) == sum(len(rooms.replace("|", " ").split()) for rooms in FLOORS.values())


# Each rule fails where it should.

LONG = "def long():\n" + "    pass\n" * 45
LINEN = "from flax import linen as nn\n"
DIT = "jaxdiff/networks/dit.py"
NORMS = "jaxdiff/layers/norms.py"

BAD = [
    (keeps_to_its_floor, "jaxdiff/process.py", "from jaxdiff import walk", "line 1: floor 1 .process.* floor 2.5"),
    (keeps_to_its_floor, "jaxdiff/loop.py", "def f():\n    import jaxdiff.hooks as h", "line 2: .*hooks"),
    (keeps_to_its_floor, "jaxdiff/walk.py", "from .samplers.edm import heun", "samplers"),
    (keeps_to_its_floor, "jaxdiff/data/images.py", "from ..layers import x", "floor 1 .data. imports floor 1 .layers."),
    (keeps_to_its_floor, "jaxdiff/data/images.py", "from .. import process", "process"),
    (keeps_to_its_floor, "jaxdiff/train/__init__.py", "from jaxdiff import loop as l", "floor 4 .loop."),
    (keeps_to_its_floor, "jaxdiff/process.py", "from jaxdiff import times", "floor 1.5 .times."),
    (keeps_to_its_floor, "jaxdiff/attic.py", "", "'attic' has no floor"),
    (keeps_to_its_floor, "jaxdiff/main.py", "from jaxdiff import attic", "jaxdiff.attic has no floor"),
    (keeps_to_its_floor, "jaxdiff/__init__.py", "from jaxdiff import process", "imports nothing"),
    (keeps_launch_apart, "jaxdiff/main.py", "import launch.slurm", "jaxdiff imports launch.slurm"),
    (keeps_launch_apart, "launch/slurm.py", "from jaxdiff.build import build", "launch imports jaxdiff.build.build"),
    (imports_writers_late, "jaxdiff/hooks.py", "from clu import metric_writers", "clu.metric_writers inside"),
    (imports_writers_late, "jaxdiff/hooks.py", "import tensorflow.io", "tensorflow.io inside"),
    (is_short, "jaxdiff/loop.py", "x = 1\n" * 401, "401 lines, at most 400"),
    (is_short, "jaxdiff/loop.py", "def long():\n" + "    pass\n" * 80, "long has 81 lines, at most 80"),
    (is_short, "jaxdiff/loop.py", "def fit():\n" + "    pass\n" * 120, "fit has 121 lines, at most 120"),
    (is_named_for_what_it_holds, "jaxdiff/utils/images.py", "", "'utils'"),
    (is_named_for_what_it_holds, "jaxdiff/checkpoint_manager.py", "", "'checkpoint_manager'"),
    (is_named_for_what_it_holds, "jaxdiff/samplers/heun.py", "def heun():\n    pass", "one name"),
    (lists_public_names, "jaxdiff/samplers/__init__.py", "from jaxdiff.samplers.edm import heun", "no __all__"),
    (never_gets, "configs/digits.py", "config.get('seed', 0)", "line 1"),
    (leaves_linen_to_layers, DIT, f"{LINEN}nn.LayerNorm()", "line 2: flax.linen.LayerNorm"),
    (leaves_linen_to_layers, DIT, "from flax.linen import RMSNorm as R\nR()", "flax.linen.RMSNorm"),
    (leaves_linen_to_layers, DIT, "import flax.linen as l\nl.SelfAttention", "SelfAttention"),
    (leaves_linen_to_layers, DIT, "import flax\nflax.linen.GroupNorm()", "flax.linen.GroupNorm"),
    (leaves_linen_to_layers, DIT, "import jax\njax.nn.dot_product_attention", "jax.nn.dot"),
    (norms_take_two_passes, NORMS, f"{LINEN}nn.GroupNorm(8)", "flax.linen.GroupNorm without"),
    (norms_take_two_passes, NORMS, f"{LINEN}nn.RMSNorm(use_fast_variance=True)", "line 2"),
    (norms_take_two_passes, NORMS, f"{LINEN}norm = nn.LayerNorm", "line 2"),
    (leaves_nothing_for_later, "jaxdiff/loop.py", "x = 1  # TO" + "DO: more", "line 1"),
    (leaves_nothing_for_later, "jaxdiff/loop.py", "def f():\n    '''FIX" + "ME'''", "docstring of f"),
    (is_explained, "jaxdiff/loop.py", "'''Loops.'''\ndef fit():\n    pass", "line 2: fit has no docstring"),
    (is_explained, "jaxdiff/loop.py", "def _fit():\n    pass", "the module has no docstring"),
    (is_explained, "jaxdiff/loop.py", "'''Loops." + "\nand" * 30 + "'''", "31 lines, at most 30"),
]

GOOD = [
    (keeps_to_its_floor, "jaxdiff/walk.py", "from jaxdiff import __version__, times\nimport jax.numpy\nimport numpy"),
    (keeps_to_its_floor, "jaxdiff/samplers/__init__.py", "from jaxdiff.samplers.edm import heun\nfrom . import edm"),
    (keeps_to_its_floor, "jaxdiff/__main__.py", "from jaxdiff.main import run"),
    (imports_writers_late, "jaxdiff/hooks.py", "import clu.parameter_overview\ndef f():\n    import tensorflow"),
    (is_named_for_what_it_holds, "jaxdiff/samplers/edm.py", "def heun():\n    pass\ndef _edm():\n    pass"),
    (lists_public_names, "jaxdiff/__init__.py", "__version__ = '1'"),
    (never_gets, "configs/digits.py", "config['seed'] or get('seed')"),
    (leaves_linen_to_layers, DIT, f"{LINEN}from jaxdiff import layers\nlayers.LayerNorm(nn.Dense)"),
    (norms_take_two_passes, NORMS, f"{LINEN}nn.GroupNorm(8, use_fast_variance=False)"),
    (is_explained, "jaxdiff/loop.py", "'''Loops.'''\ndef _f(): ...\nclass A:\n    '''A.'''\n    def f(self): ..."),
]


@pytest.mark.parametrize(("rule", "path", "text", "problem"), BAD)
def test_a_rule_fails(rule, path, text, problem):
    assert re.match(RULES[rule], path)
    found = list(rule(File(path, text)))
    assert len(found) == 1
    assert re.search(problem, found[0])


@pytest.mark.parametrize(("rule", "path", "text"), GOOD)
def test_a_rule_passes(rule, path, text):
    assert not list(rule(File(path, text)))


def test_a_rule_of_the_package_fails():
    files_of = [File("jaxdiff/a.py", LONG.replace("long", f"long_{i}") * (i == 0) + "\n" * 160) for i in range(3)]
    assert "0.0% of 1 functions" in next(most_functions_are_short(files_of))
    assert not list(the_median_file_is_short(files_of))
    assert "161 lines" in next(the_median_file_is_short([File("jaxdiff/a.py", "\n" * 161)]))


def test_every_rule_is_seen_to_fail():
    assert {rule for rule, *_ in BAD} == set(RULES)
