"""Which commands compare fits, with one another or with published figures? Heavy imports wait until one runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from twinspire.job import JsonFile, Now, Overrides, errors, moment

# Apart from the daily runs: an earlier cut would have their features made anew.
DEFAULT_ABLATION_RUNS = Path("runs/ablations")

benchmarks = typer.Typer(no_args_is_help=True, help="Compare with published figures.")


def ablate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="YAML file of arms to compare.")
    ],
    runs: Annotated[Path, typer.Option(help="Folder of the runs of ablations.")] = DEFAULT_ABLATION_RUNS,
    only: Annotated[
        str | None, typer.Option(metavar="ARM,...", help="Only these arms, and those that they are compared with.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many of the file's seeds; all if left out.")] = None,
    json_: JsonFile = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file that gets the tables, between its markers.")] = None,
    set_: Overrides = None,
    now: Now = None,
) -> None:
    """Fit every arm of a file with several seeds and cuts, and compare them on the same users."""
    with errors():
        from twinspire.ablation_config import load_ablation

        ablation = load_ablation(file, set_ or [])
        names = only.split(",") if only else []
        ablation.chosen(names)
        from importlib.metadata import version

        from artefacts.console import console
        from evaluation.ablation_table import print_ablation, write_markdown
        from evaluation.report import to_json
        from twinspire.pipeline.ablate import ablate as compare_arms
        from twinspire.pipeline.fit_arm import Run

        run = Run(moment(now), version("twinspire"))
        report = compare_arms(ablation, runs, only=names, num_seeds=seeds, run=run)
        print_ablation(report, console())
        if json_ is not None:
            json_.parent.mkdir(parents=True, exist_ok=True)
            json_.write_text(to_json(report), encoding="utf-8")
        if out is not None:
            write_markdown(report, out)
        if report.failed:
            raise ValueError("; ".join(f"arm {arm!r} failed: {why}" for arm, why in report.failed.items()))


@benchmarks.command()
def lightgcn(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder with train.txt and test.txt.")],
    json_: JsonFile = None,
    dim: Annotated[int, typer.Option(min=2, help="Width of the vectors.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the held-out part and of every fit.")] = 20170101,
    model: Annotated[
        Literal["two-tower", "sparcode"], typer.Option(help="Towers alone, or SparCode over them and beside them.")
    ] = "two-tower",
) -> None:
    """Fit towers of ids on a published split: a line a user, its id, then its items."""
    with errors():
        from training.published.lightgcn import benchmark

        found = benchmark(data, embedding_dim=dim, seed=seed, model=model)
        if json_ is not None:
            json_.parent.mkdir(parents=True, exist_ok=True)
            json_.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
