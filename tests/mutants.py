"""Mutants: defects put into a copy of the product one by one, each of which the tests must find.

    python tests/mutants.py [--only NAME] [--jobs 2]

A mutant is a snippet of a function and what it becomes. The function is looked for in the whole tree, so that it may
move to another file; a snippet that is not there exactly once is an error, as is a selection of tests that fails
without a mutant. Prints a line for each mutant; the exit code is 1 when one survives or does not apply.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("artefacts", "features", "towers", "training", "beam_jobs", "serving", "evaluation", "twinspire")
TESTS_FAILED = 1


@dataclass(frozen=True)
class Mutant:
    """A defect.

    Attributes:
        name: Of what goes wrong.
        function: In which the snippet is; methods by their bare name.
        old: Snippet of it, part of a line.
        new: What it becomes.
        tests: The ends of the paths of the test files that must find it.
        file: Name of the file, where functions of one name have the snippet in several.
    """

    name: str
    function: str
    old: str
    new: str
    tests: tuple[str, ...]
    file: str = ""


class DoesNotApply(ValueError):
    """The snippet is not in the tree exactly once."""


MUTANTS = (
    Mutant(
        "log-q-added",
        "_corrected",
        "scores - tf.cast(log_q, scores.dtype)",
        "scores + tf.cast(log_q, scores.dtype)",
        ("losses/test_softmax.py",),
    ),
    Mutant(
        "temperature-after-correction",
        "two_tower_softmax",
        "/ temperature, log_q, mask=mask)",
        "/ temperature, None if log_q is None else log_q / temperature, mask=mask)",
        ("losses/test_softmax.py", "losses/test_fused_softmax.py"),
    ),
    Mutant(
        "temperature-after-correction-in-kernel",
        "fused_softmax",
        "tf.stop_gradient(log_q)",
        "tf.stop_gradient(log_q * sharpness)",
        ("losses/test_fused_softmax.py",),
    ),
    Mutant(
        "mimic-stops-the-wrong-gradient",
        "mimic_loss",
        "squared_difference(augmented, tf.stop_gradient(counterpart))",
        "squared_difference(tf.stop_gradient(augmented), counterpart)",
        ("losses/test_dual_augmented.py",),
    ),
    Mutant(
        "mimic-not-crossed",
        "mimic_term",
        "mimic_loss(outputs.users[AUGMENTED], outputs.items[VECTOR][:num_rows])",
        "mimic_loss(outputs.users[AUGMENTED], outputs.users[VECTOR])",
        ("losses/test_dual_augmented.py",),
    ),
    Mutant(
        "category-alignment-not-scaled",
        "category_alignment",
        "tf.reduce_sum(gaps * counted) / (4.0 * tf.cast(width, vectors.dtype) ** 2)",
        "tf.reduce_sum(gaps * counted)",
        ("losses/test_dual_augmented.py",),
    ),
    Mutant(
        "mined-band-off-by-one",
        "process",
        "rows[:, first - 1 : last], scores[:, first - 1 : last]",
        "rows[:, first:last], scores[:, first:last]",
        ("beam_jobs/test_mine_negatives.py",),
    ),
    Mutant(
        "repeats-not-masked",
        "false_negatives",
        "repeats[columns] = False",
        "repeats[:] = False",
        ("negatives/test_known_positives.py",),
    ),
    Mutant(
        "other-positives-not-masked",
        "false_negatives",
        "hit[user, columns[item]] = True",
        "hit[user, columns[item]] |= False",
        ("negatives/test_known_positives.py",),
    ),
    Mutant(
        "uniform-draws-left-out-of-streaming-presence",
        "_comparison",
        "absences=drawn.absences(item_rows)",
        "absences=drawn.absences(item_rows) if plan.frequency is None else []",
        ("data/test_batches.py", "negatives/test_frequency.py"),
    ),
    Mutant(
        "commitment-moves-the-codebook",
        "commitment",
        "tf.square(tokens - tf.stop_gradient(quantised))",
        "tf.square(tf.stop_gradient(tokens) - quantised)",
        ("towers/test_sparcode.py", "training/test_sparcode.py"),
    ),
    Mutant(
        "tables-without-relu",
        "__init__",
        "self._threshold = np.zeros(num_codes, np.float32)",
        "self._threshold = np.full(num_codes, -np.inf, np.float32)",
        ("beam_jobs/test_score_codes.py",),
    ),
    Mutant(
        "exact-sums-without-relu",
        "_search_block",
        "np.maximum(found, 0, out=found)",
        "np.maximum(found, -np.inf, out=found)",
        ("sparcode/test_all_to_all.py",),
    ),
    Mutant(
        "code-met-twice-counts-once",
        "retrieve",
        "self._postings.joined(codes)",
        "self._postings.joined(np.unique(codes))",
        ("sparcode/test_retriever.py",),
    ),
    Mutant(
        "fusion-ranks-reversed",
        "reciprocal_rank_fusion",
        "np.arange(1, rows.shape[1] + 1)",
        "np.arange(rows.shape[1], 0, -1)",
        ("serving/test_fusion.py",),
    ),
    Mutant(
        "known-positives-recommended",
        "kept_out",
        "self.purchases if self.exclude_known else None",
        "None",
        ("contracts/test_retriever_contract.py",),
    ),
    Mutant(
        "holm-dropped",
        "holm",
        "* np.arange(len(order), 0, -1)",
        "* np.ones(len(order))",
        ("evaluation/test_multiplicity.py",),
    ),
    Mutant(
        "benjamini-hochberg-for-holm",
        "holm",
        "* np.arange(len(order), 0, -1)",
        "* len(order) / np.arange(1, len(order) + 1)",
        ("evaluation/test_multiplicity.py",),
    ),
    Mutant(
        "recall-over-at-most-k",
        "recall_at_k",
        "hits.num_relevant)",
        "np.minimum(hits.num_relevant, k))",
        ("evaluation/test_metrics.py",),
    ),
    Mutant(
        "snapshot-a-day-early",
        "snapshots",
        "yield state.rows(np.flatnonzero(due), day + 1)",
        "yield state.rows(np.flatnonzero(due), day)",
        ("beam_jobs/test_user_snapshots.py",),
        file="user_snapshots.py",
    ),
    Mutant(
        "younger-features-let-through",
        "check_not_younger",
        "known * 1_000_000 > moment",
        "known * 1_000_000 > moment + 86_400_000_000",
        ("features/test_store.py",),
    ),
    Mutant(
        "warm-start-in-another-order",
        "moved_rows",
        "moved[rows[kept]] = values[kept]",
        "moved[np.sort(rows[kept])] = values[kept]",
        ("training/test_warm_start.py",),
    ),
)


def functions(source: str, name: str) -> Iterator[tuple[int, int]]:
    """First and last line, from 1 on, of each function of a name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            yield node.lineno, node.end_lineno or node.lineno


def place_of(mutant: Mutant, tree: Path) -> tuple[Path, int]:
    """File and line, from 0 on, of the snippet.

    Raises:
        DoesNotApply: There is none, or more than one.
    """
    found = []
    for path in sorted(file for package in PACKAGES for file in (tree / package).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if mutant.old in source and path.name == (mutant.file or path.name):
            lines = source.splitlines()
            for first, last in functions(source, mutant.function):
                found += [(path, line) for line in range(first - 1, last) if mutant.old in lines[line]]
    if len(found) != 1:
        shown = [f"{path.relative_to(tree)}:{line + 1}" for path, line in found]
        raise DoesNotApply(f"{mutant.name}: {mutant.old!r} is in {shown} of functions {mutant.function!r}, expected 1")
    return found[0]


def apply(mutant: Mutant, tree: Path) -> tuple[Path, str]:
    """Puts a mutant into a tree; returns the file and what it was."""
    path, number = place_of(mutant, tree)
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    lines[number] = lines[number].replace(mutant.old, mutant.new)
    path.write_text("".join(lines), encoding="utf-8")
    return path, source


def test_files(tree: Path, ends: set[str]) -> list[str]:
    """The test files whose paths end so.

    Raises:
        DoesNotApply: There is no such file.
    """
    found = []
    for end in sorted(ends):
        files = [path for path in (tree / "tests").rglob(Path(end).name) if str(path).endswith(f"/{end}")]
        if not files:
            raise DoesNotApply(f"there is no test file {end}")
        found += [str(path) for path in files]
    return found


def run_tests(tree: Path, ends: set[str]) -> subprocess.CompletedProcess[str]:
    """Runs test files of a tree until one fails."""
    command = [sys.executable, "-m", "pytest", "--exitfirst", "--quiet", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*command, *test_files(tree, ends)], cwd=tree, env=environment, check=False, capture_output=True, text=True
    )


def copy_tree(target: Path) -> Path:
    """A copy of the files that git knows or would add."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    return target


def problem_of(mutant: Mutant, tree: Path) -> str | None:
    """What is wrong with the tests of a mutant; None where they find it."""
    try:
        path, source = apply(mutant, tree)
    except DoesNotApply as error:
        return str(error)
    try:
        ran = run_tests(tree, set(mutant.tests))
    finally:
        path.write_text(source, encoding="utf-8")
    if ran.returncode == TESTS_FAILED:
        return None
    if ran.returncode == 0:
        return "survived: " + ", ".join(mutant.tests)
    return f"pytest ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}"


def main() -> None:
    """Tries the mutants that are asked for."""
    parser = argparse.ArgumentParser(description="Puts defects into a copy of the product and runs the tests on each.")
    parser.add_argument("--only", action="append", choices=[mutant.name for mutant in MUTANTS], help="one of them")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at a time")
    asked = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if asked.only is None or mutant.name in asked.only]
    trees: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as pool:
        for number in range(asked.jobs):
            trees.put(copy_tree(Path(folder) / str(number)))
        tree = trees.get()
        ran = run_tests(tree, {end for mutant in mutants for end in mutant.tests})
        trees.put(tree)
        if ran.returncode:
            sys.exit(f"without a mutant, pytest ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")

        def one(mutant: Mutant) -> str | None:
            tree = trees.get()
            try:
                return problem_of(mutant, tree)
            finally:
                trees.put(tree)

        wrong = 0
        for mutant, problem in zip(mutants, pool.map(one, mutants), strict=True):
            print(f"{'killed' if problem is None else 'NOT KILLED':12}{mutant.name}", flush=True)
            if problem is not None:
                print(f"            {problem}", flush=True)
                wrong += 1
    print(f"{len(mutants) - wrong} of {len(mutants)} mutants killed")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
