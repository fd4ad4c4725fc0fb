"""Speed and recall of the towers' fit compared with TFRS's tutorial, and time of a step by size of the id tables."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from clock import Outcome
from ours import fit_ours, our_plan, step_with_tables_of
from tutorial import BATCH_SIZE, EPOCHS, WIDTH, fit_tutorial
from world import K, World, load_world

from artefacts.paths import RunPaths
from twinspire.config import Config
from twinspire.load_config import load

REPORT, BEGIN, END = Path("docs/training_speed.md"), "<!-- figures -->", "<!-- end of figures -->"
TABLE_ROWS = (10_000, 100_000, 1_000_000)
WARM_UP, TABLE_STEPS = 3, 30
PLAIN = "(a') TFRS without metrics"


def main() -> None:
    """Fits every arm in turn, several times, and prints the figures in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/complete_journey.yaml"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of a run whose features are there")
    parser.add_argument("--repeats", type=int, default=3, help="fits of each arm, in turn, each with another seed")
    parser.add_argument("--only", default="a,a',b,c", help="letters of arms, with commas between them")
    parser.add_argument("--out", type=Path, default=REPORT, help="Markdown file that gets the figures")
    options = parser.parse_args()
    config = load(options.config)
    paths = RunPaths(options.runs / config.name, config.as_of)
    world = load_world(config, paths, flags=f"--config {options.config} --runs {options.runs}")
    arms = {name: fit for name, fit in arms_of(config, world).items() if letter(name) in options.only.split(",")}
    found: dict[str, list[Outcome]] = {name: [] for name in arms}
    for repeat in range(options.repeats):
        for name, fit in arms.items():
            found[name].append(fit(config.seed + repeat))
            print(f"{repeat + 1}/{options.repeats} {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    text = "\n".join([*described(config, world), "", *compared(found), "", *grown(config, world, options.repeats)])
    print(text)
    write_between(options.out, text)


def letter(name: str) -> str:
    """The letter in brackets in front of an arm's name."""
    return name[1 : name.index(")")]


def arms_of(config: Config, world: World) -> dict[str, Callable[[int], Outcome]]:
    """The arms by their name in the table: functions from a seed to the figures of one fit."""
    training, towers = config.training, config.towers
    same = our_plan(config, world, batch_size=BATCH_SIZE, num_uniform=0)
    default = our_plan(config, world, batch_size=training.batch_size, num_uniform=training.negatives.num_uniform)
    return {
        PLAIN: lambda seed: fit_tutorial(world, seed, with_metrics=False, warm_up=WARM_UP),
        "(b) this trainer, ids alone, same batch": lambda seed: fit_ours(
            world, config, seed, kinds=("id",), plan=same, epochs=EPOCHS, width=WIDTH, warm_up=WARM_UP
        ),
        "(c) this trainer, its defaults": lambda seed: fit_ours(
            world, config, seed, kinds=None, plan=default, epochs=training.epochs, width=towers.embedding_dim,
            warm_up=WARM_UP,
        ),
        "(a) TFRS as in its tutorial": lambda seed: fit_tutorial(world, seed, with_metrics=True, warm_up=1),
    }  # fmt: skip


def described(config: Config, world: World) -> list[str]:
    """The data and the machine of the measurement."""
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS") or os.cpu_count()
    return [
        f"{len(world.span):,} examples, {len(world.encoder.user_ids) - 1:,} users, "
        f"{len(world.encoder.item_ids) - 1:,} items; TensorFlow {tf.__version__}, {threads} threads, "
        f"{platform.machine()}; held out: {config.training.validation_days} days before {config.as_of}.",
    ]


def compared(found: dict[str, list[Outcome]]) -> list[str]:
    """A table of the arms, medians over fits with the smallest and the largest."""
    lines = [
        f"| arm | examples/s | ms/step | recall@{K} of new items | examples/s against (a') |",
        "|---|---|---|---|---|",
    ]
    plain = np.median([outcome.examples_per_second for outcome in found.get(PLAIN, [])] or [np.nan])
    for name, outcomes in sorted(found.items()):
        speed = [outcome.examples_per_second for outcome in outcomes]
        step, recall = ([getattr(outcome, of) for outcome in outcomes] for of in ("ms_per_step", "recall"))
        cells = [name, spread(speed, ",.0f"), spread(step, ",.1f"), spread(recall, ".4f")]
        lines.append(f"| {' | '.join(cells)} | {np.median(speed) / plain:,.2f} |")
    return lines


def grown(config: Config, world: World, repeats: int) -> list[str]:
    """A table of the step's time by the size of the id tables, sizes in turn."""
    plan = our_plan(
        config, world, batch_size=config.training.batch_size, num_uniform=config.training.negatives.num_uniform
    )
    found: dict[int, list[float]] = {num_rows: [] for num_rows in TABLE_ROWS}
    for repeat in range(repeats):
        for num_rows, steps in found.items():
            taken = step_with_tables_of(
                world, config, num_rows, plan=plan, steps=WARM_UP + TABLE_STEPS, seed=config.seed + repeat
            )
            steps.append(float(np.median(taken[WARM_UP:])))
    lines = ["| rows of each id table | ms/step without making the batch |", "|---|---|"]
    return lines + [f"| {num_rows:,} | {spread(steps, ',.1f')} |" for num_rows, steps in found.items()]


def spread(values: Sequence[float], form: str) -> str:
    """Median, and smallest and largest if there are several."""
    if np.isnan(values).any():
        return "–"
    middle = f"{np.median(values):{form}}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def write_between(path: Path, text: str) -> None:
    """Replaces the text between the markers and keeps the text around them."""
    whole = path.read_text(encoding="utf-8")
    before, rest = whole.split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
