"""Mutants: defects put into a copy of the product one by one, each of which the tests must find.

    python tests/mutants.py [--only NAME] [--jobs 2]

A mutant is a snippet of a function and what it becomes. The function is looked for in the whole tree, so that it may
move to another file; a snippet that is not there exactly once is an error, as is a selection of tests that fails
without a mutant. Prints a line for each mutant; the exit code is 1 when one survives or does not apply.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("artefacts", "features", "towers", "training", "beam_jobs", "serving", "evaluation", "twinspire")
MARKS = "not slow and not end_to_end and not long"
# Imported once, and there in every process that is forked to run tests; none of ours, which a mutant changes.
PRELOADED = (
    "prometheus_client",
    "feast",
    "apache_beam",
    "tensorflow",
    "tf_keras",
    "tensorflow_recommenders",
    "scipy.stats",
)


@dataclass(frozen=True)
class Mutant:
    """A defect.

    Attributes:
        name: Of what goes wrong.
        function: In which the snippet is; methods by their bare name.
        old: Snippet of it, part of a line.
        new: What it becomes.
        word: That the test files which must find it contain; those marked slow, end_to_end or long are left out.
        file: Name of the file, where functions of one name have the snippet in several.
    """

    name: str
    function: str
    old: str
    new: str
    word: str
    file: str = ""


class DoesNotApply(ValueError):
    """The snippet is not in the tree exactly once."""


MUTANTS = (
    Mutant(
        "log-q-added",
        "_corrected",
        "scores - tf.cast(log_q, scores.dtype)",
        "scores + tf.cast(log_q, scores.dtype)",
        "two_tower_softmax",
    ),
    Mutant(
        "temperature-after-correction",
        "two_tower_softmax",
        "/ temperature, log_q, mask=mask)",
        "/ temperature, None if log_q is None else log_q / temperature, mask=mask)",
        "two_tower_softmax",
    ),
    Mutant(
        "temperature-after-correction-in-kernel",
        "fused_softmax",
        "tf.stop_gradient(log_q)",
        "tf.stop_gradient(log_q * sharpness)",
        "fused_softmax",
    ),
    Mutant(
        "mimic-stops-the-wrong-gradient",
        "mimic_loss",
        "squared_difference(augmented, tf.stop_gradient(counterpart))",
        "squared_difference(tf.stop_gradient(augmented), counterpart)",
        "mimic_loss",
    ),
    Mutant(
        "mimic-not-crossed",
        "mimic_term",
        "mimic_loss(outputs.users[AUGMENTED], outputs.items[VECTOR][:num_rows])",
        "mimic_loss(outputs.users[AUGMENTED], outputs.users[VECTOR])",
        "mimic_loss",
    ),
    Mutant(
        "category-alignment-not-scaled",
        "category_alignment",
        "tf.reduce_sum(gaps * counted) / (4.0 * tf.cast(width, vectors.dtype) ** 2)",
        "tf.reduce_sum(gaps * counted)",
        "mimic_loss",
    ),
    Mutant(
        "mined-band-off-by-one",
        "process",
        "rows[:, first - 1 : last], scores[:, first - 1 : last]",
        "rows[:, first:last], scores[:, first:last]",
        "MineNegatives",
    ),
    Mutant(
        "repeats-not-masked",
        "false_negatives",
        "repeats[columns] = False",
        "repeats[:] = False",
        "false_negatives",
    ),
    Mutant(
        "other-positives-not-masked",
        "false_negatives",
        "hit[user, columns[item]] = True",
        "hit[user, columns[item]] |= False",
        "false_negatives",
    ),
    Mutant(
        "uniform-draws-left-out-of-streaming-presence",
        "_comparison",
        "*drawn.absences(item_rows)]",
        "*(drawn.absences(item_rows) if plan.frequency is None else [])]",
        "StreamingFrequency",
    ),
    Mutant(
        "queued-items-of-earlier-spans-not-corrected",
        "_absences",
        "for span, num in earlier:",
        "for span, num in earlier[:0]:",
        "epoch_batches",
    ),
    Mutant(
        "queued-items-taken-for-those-of-the-span",
        "_absences",
        "if earlier and earlier[-1][0] is counts else 0",
        "if earlier else 0",
        "epoch_batches",
    ),
    Mutant(
        "examples-drawn-with-replacement",
        "absence_from_examples",
        "rest = np.maximum(population - counts, 0)",
        "return np.power(1 - np.minimum(counts / max(population, 1), 1.0), num_drawn)",
        "absence_from_examples",
    ),
    Mutant(
        "streaming-rate-does-not-fall",
        "update",
        "rate = np.maximum(self._rate, 1 / np.maximum(num_gaps, 1))",
        "rate = np.full(len(seen), self._rate)",
        "StreamingFrequency",
    ),
    Mutant(
        "vanished-items-keep-their-share",
        "shares",
        "(self._step - self._last[hashed, cells]) / 3)",
        "0.0)",
        "StreamingFrequency",
    ),
    Mutant(
        "commitment-moves-the-codebook",
        "commitment",
        "tf.square(tokens - tf.stop_gradient(quantised))",
        "tf.square(tf.stop_gradient(tokens) - quantised)",
        "commitment",
    ),
    Mutant(
        "tables-without-relu",
        "__init__",
        "self._threshold = np.zeros(num_codes, np.float32)",
        "self._threshold = np.full(num_codes, -np.inf, np.float32)",
        "RunningLists",
    ),
    Mutant(
        "exact-sums-without-relu",
        "_search_block",
        "np.maximum(found, 0, out=found)",
        "np.maximum(found, -np.inf, out=found)",
        "all_to_all",
    ),
    Mutant(
        "code-met-twice-counts-once",
        "retrieve",
        "self._postings.joined(codes)",
        "self._postings.joined(np.unique(codes))",
        "num_substituted",
    ),
    Mutant(
        "fusion-ranks-reversed",
        "reciprocal_rank_fusion",
        "np.arange(1, rows.shape[1] + 1)",
        "np.arange(rows.shape[1], 0, -1)",
        "reciprocal_rank_fusion",
    ),
    Mutant(
        "known-positives-recommended",
        "kept_out",
        "self.purchases if self.exclude_known else None",
        "None",
        "Fused",
    ),
    Mutant(
        "holm-dropped",
        "holm",
        "* np.arange(len(order), 0, -1)",
        "* np.ones(len(order))",
        "holm",
    ),
    Mutant(
        "benjamini-hochberg-for-holm",
        "holm",
        "* np.arange(len(order), 0, -1)",
        "* len(order) / np.arange(1, len(order) + 1)",
        "holm",
    ),
    Mutant(
        "recall-over-at-most-k",
        "recall_at_k",
        "hits.num_relevant)",
        "np.minimum(hits.num_relevant, k))",
        "recall_at_k",
    ),
    Mutant(
        "snapshot-a-day-early",
        "snapshots",
        "yield state.rows(np.flatnonzero(due), day + 1)",
        "yield state.rows(np.flatnonzero(due), day)",
        "UserState",
        file="user_snapshots.py",
    ),
    Mutant(
        "younger-features-let-through",
        "check_not_younger",
        "known * 1_000_000 > moment",
        "known * 1_000_000 > moment + 86_400_000_000",
        "check_not_younger",
    ),
    Mutant(
        "text-length-for-buckets",
        "fit_encoder_on",
        "text_buckets=towers.text_buckets",
        "text_buckets=towers.text_length",
        "arrivals",
    ),
    Mutant(
        "factor-powers-swapped",
        "with_factors_of",
        "user_power, item_power, length",
        "item_power, user_power, length",
        "with_factors_of",
    ),
    Mutant(
        "learning-rate-for-temperature",
        "_model",
        "temperature=self.shape.temperature",
        "temperature=self.training.learning_rate",
        "arrivals",
    ),
    Mutant(
        "embedding-dim-for-hidden-units",
        "_build",
        "hidden_units=shape.hidden_units",
        "hidden_units=(shape.embedding_dim,)",
        "arrivals",
    ),
    Mutant(
        "hashes-and-buckets-swapped",
        "_plan",
        "num_hashes=streaming.num_hashes",
        "num_hashes=streaming.num_buckets",
        "arrivals",
    ),
    Mutant(
        "rate-and-gap-swapped",
        "_plan",
        "rate=streaming.rate",
        "rate=streaming.initial_gap",
        "arrivals",
    ),
    Mutant(
        "random-negatives-for-uniform",
        "_sources",
        'NEGATIVE_SOURCES["uniform"](num=negatives.num_uniform)',
        'NEGATIVE_SOURCES["uniform"](num=negatives.num_random)',
        "arrivals",
    ),
    Mutant(
        "weight-of-items-for-users",
        "terms",
        '(dual.user_weight, LOSSES["mimic"]("user"))',
        '(dual.item_weight, LOSSES["mimic"]("user"))',
        "arrivals",
    ),
    Mutant(
        "bad-pairs-for-unclicked-ones",
        "_main",
        "unclick_per_click=mobius.unclick_per_click",
        "unclick_per_click=mobius.bad_per_click",
        "arrivals",
    ),
    Mutant(
        "balance-for-power-of-rewards",
        "read_days",
        "reward_power=training.reward_power",
        "reward_power=training.user_balance",
        "arrivals",
    ),
    Mutant(
        "item-tokens-for-interests",
        "_build",
        "num_interest_tokens=settings.interest_tokens",
        "num_interest_tokens=settings.item_tokens",
        "arrivals",
    ),
    Mutant(
        "decay-for-commitment",
        "fit_sparcode",
        "commit_weight=settings.commitment",
        "commit_weight=settings.decay",
        "arrivals",
    ),
    Mutant(
        "replay-days-for-epochs",
        "_of_new_days",
        "epochs = sections.warm_epochs",
        "epochs = sections.replay_days",
        "arrivals",
    ),
    Mutant(
        "warm-start-in-another-order",
        "moved_rows",
        "moved[rows[kept]] = values[kept]",
        "moved[np.sort(rows[kept])] = values[kept]",
        "moved_rows",
    ),
    Mutant(
        "newest-examples-count-least",
        "of",
        "np.exp(-((self.until - day).days - 1) / self.days)",
        "np.exp(((self.until - day).days - 1) / self.days)",
        "Fade",
        "example_weights.py",
    ),
    Mutant(
        "one-size-of-cells",
        "_cell_names",
        "np.floor(degrees[known] / side)",
        "np.floor(degrees[known] / CELL_DEGREES[0])",
        "cell_names",
    ),
    Mutant(
        "moments-of-adam-mixed-up",
        "_resource_apply_sparse",
        'second = self.get_slot(var, "m"), self.get_slot(var, "v")',
        'second = self.get_slot(var, "v"), self.get_slot(var, "m")',
        "RowAdam",
    ),
    Mutant(
        "facts-by-table-row",
        "vectors_of",
        "tf.gather(tf.constant(self.rows), known)",
        "known",
        "PooledFacts",
    ),
    Mutant(
        "second-look-ranks-what-it-was-fitted-on",
        "_ranked",
        "fold_of[fresh.users] != fold",
        "fold_of[fresh.users] >= 0",
        "second_look",
    ),
    Mutant(
        "candidate-attends-to-itself",
        "_of_history",
        "is_known[:, None] & (rows[:, None] != met)",
        "is_known[:, None] & (rows[:, None] >= 0)",
        "inputs_of",
    ),
    Mutant(
        "weights-divide-chances",
        "retrieve",
        "values + self._log_weights",
        "values - self._log_weights",
        "SecondLookParts",
    ),
    Mutant(
        "towers-teach-the-teacher",
        "term",
        "tf.stop_gradient(outputs.batch[TEACHER])",
        "outputs.scores",
        "distillation_term",
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


def test_files(tree: Path, words: set[str]) -> list[str]:
    """The test files that contain one of some words, each as a whole.

    Raises:
        DoesNotApply: A word is in no file.
    """
    found: dict[str, set[str]] = {word: set() for word in words}
    for path in (tree / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        for word in words:
            if re.search(rf"\b{word}\b", text):
                found[word].add(str(path))
    if missing := sorted(word for word, files in found.items() if not files):
        raise DoesNotApply(f"no test file contains {', '.join(missing)}")
    return sorted(set().union(*found.values()))


def start_tests(tree: Path, words: set[str]) -> int:
    """Forks a process that runs test files of a tree until one fails, with its output in a file; returns its number."""
    arguments = ["--exitfirst", "--quiet", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", MARKS]
    # Feast has imported a plugin's package by then.
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning", *test_files(tree, words)]
    if child := os.fork():
        return child
    code = pytest.ExitCode.INTERNAL_ERROR
    try:
        output = os.open(log_of(tree), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree)
        sys.path[0] = str(tree)
        sys.dont_write_bytecode = True
        code = pytest.ExitCode(pytest.main(arguments))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def log_of(tree: Path) -> Path:
    """Where the output of a tree's tests goes."""
    return tree.with_suffix(".log")


def ended(child: int) -> int:
    """Waits for a process and returns how it ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def copy_tree(target: Path) -> Path:
    """A copy of the files that git knows or would add."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    return target


def problem_of(mutant: Mutant, code: int, output: str) -> str | None:
    """What is wrong with the tests of a mutant; None where they find it."""
    if code == pytest.ExitCode.TESTS_FAILED:
        return None
    if code == pytest.ExitCode.OK:
        return f"survived the tests that contain {mutant.word!r}"
    return f"pytest ended with {code}:\n{output}"


def report(mutant: Mutant, problem: str | None) -> bool:
    """Prints what became of a mutant; returns whether it was killed."""
    print(f"{'killed' if problem is None else 'NOT KILLED':12}{mutant.name}", flush=True)
    if problem is not None:
        print(f"            {problem}", flush=True)
    return problem is None


def try_all(mutants: Sequence[Mutant], folder: Path, num_jobs: int) -> int:
    """Tries mutants, some at a time, each in a copy of the tree; returns how many were killed."""
    free = [copy_tree(folder / str(number)) for number in range(num_jobs)]
    if code := ended(start_tests(free[0], {mutant.word for mutant in mutants})):
        sys.exit(f"without a mutant, pytest ended with {code}:\n{log_of(free[0]).read_text()}")
    waiting, killed = list(mutants), 0
    running: dict[int, tuple[Mutant, Path, Path, str]] = {}
    while waiting or running:
        if waiting and free:
            mutant, tree = waiting.pop(0), free.pop()
            try:
                path, source = apply(mutant, tree)
            except DoesNotApply as error:
                report(mutant, str(error))
                free.append(tree)
                continue
            running[start_tests(tree, {mutant.word})] = (mutant, tree, path, source)
            continue
        child, status = os.wait()
        mutant, tree, path, source = running.pop(child)
        killed += report(mutant, problem_of(mutant, os.waitstatus_to_exitcode(status), log_of(tree).read_text()))
        path.write_text(source, encoding="utf-8")
        free.append(tree)
    return killed


def main() -> None:
    """Tries the mutants that are asked for."""
    parser = argparse.ArgumentParser(description="Puts defects into a copy of the product and runs the tests on each.")
    parser.add_argument("--only", action="append", choices=[mutant.name for mutant in MUTANTS], help="one of them")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at a time")
    asked = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if asked.only is None or mutant.name in asked.only]
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    logging.disable(logging.WARNING)
    for name in PRELOADED:
        importlib.import_module(name)
    logging.disable(logging.NOTSET)
    with tempfile.TemporaryDirectory() as folder:
        killed = try_all(mutants, Path(folder), asked.jobs)
    print(f"{killed} of {len(mutants)} mutants killed")
    sys.exit(killed < len(mutants))


if __name__ == "__main__":
    main()
