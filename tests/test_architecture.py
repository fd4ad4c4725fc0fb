"""The import contracts find what is planted against them, files keep their sizes, and the command line starts light."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("artefacts", "features", "towers", "training", "beam_jobs", "serving", "evaluation", "twinspire")
FILES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
# File, what is planted in it, and what the report has to name.
PLANTED = [
    ("artefacts/files.py", "import features.ids", "artefacts.files -> features.ids"),
    ("features/ids.py", "from serving.retrieval import exact", "features.ids -> serving.retrieval.exact"),
    ("features/ids.py", "import apache_beam as beam", "features.ids -> apache_beam"),
    ("towers/inputs.py", "from features import store", "towers.inputs -> features.store"),
    ("towers/inputs.py", "import pandas as pd", "towers.inputs -> pandas"),
    ("towers/inputs.py", "from serving.retrieval.exact import search", "towers.inputs -> serving.retrieval.exact"),
    (
        "serving/retrieval/exact.py",
        "if TYPE_CHECKING:\n    from towers import inputs",
        "serving.retrieval.exact -> towers.inputs",
    ),
    ("serving/retrieval/exact.py", "def late():\n    import tensorflow as tf", "serving.retrieval.exact -> tensorflow"),
    ("beam_jobs/embed.py", "from towers import inputs", "beam_jobs.embed -> towers.inputs"),
    ("beam_jobs/embed.py", "from training import fit", "beam_jobs.embed -> training.fit"),
    ("training/trainer.py", "def late():\n    from beam_jobs.embed import run", "training.trainer -> beam_jobs.embed"),
    ("evaluation/metrics.py", "from training import fit", "evaluation.metrics -> training.fit"),
    ("evaluation/metrics.py", "from twinspire.config import Config", "evaluation.metrics -> twinspire.config"),
    ("twinspire/job.py", "from tests.serving import conftest", "twinspire.job -> tests"),
    ("artefacts/files.py", "import artefacts.steps", "No cycles are allowed in artefacts."),
]


def test_planted_imports_against_the_contracts_are_all_reported(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module, line, _ in PLANTED:
        with (tmp_path / module).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{line}\n")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    assert [expected for _, _, expected in PLANTED if expected not in ran.stdout] == []


def test_every_folder_of_a_package_is_a_package() -> None:
    folders = {path.parent for path in FILES}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_no_function_is_over_80_lines() -> None:
    functions = [
        (f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [(name, lines) for name, lines in functions if lines > 80] == []


def test_nine_files_in_ten_have_at_most_15_import_lines() -> None:
    statements = {
        str(path.relative_to(REPOSITORY)): sum(
            isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
        for path in FILES
        if path.name != "__init__.py"
    }
    over = {name: count for name, count in statements.items() if count > 15}
    assert len(over) <= 0.1 * len(statements), over


def test_json_is_written_by_one_function_alone() -> None:
    writers = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.dumps", "json.dump", "json.JSONEncoder"))
        or (isinstance(node, ast.ImportFrom) and node.module == "json")
    ]
    assert [writer.partition(":")[0] for writer in writers] == ["artefacts/files.py"], writers


def test_no_option_of_the_command_line_is_declared_twice() -> None:
    options = Counter(
        ast.unparse(node)
        for path in (REPOSITORY / "twinspire").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Option"
    )
    assert len(options) > 30
    assert [option for option, count in options.items() if count > 1] == []


def test_the_command_line_starts_without_the_heavy_libraries(tmp_path: Path) -> None:
    heavy = ("tensorflow", "tf_keras", "tensorflow_recommenders", "feast", "apache_beam", "pandas", "optuna")
    code = f"import sys, twinspire.cli; print(sorted(set({heavy}) & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "[]", "")
