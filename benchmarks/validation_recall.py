"""Recall of the learned towers alone on the validation days, epoch by epoch, without fitting anything else.

    python benchmarks/validation_recall.py my_shop.yaml --set towers.temperature=0.2

Needs the output of `twinspire ingest` and `twinspire features` for the configuration. Settings are chosen by these
figures; the days after `as_of` are not read. Results are in docs/decisions/0012-how-the-towers-are-fitted.md.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from artefacts.config import pick
from artefacts.paths import RunPaths
from training.config import TrainSections
from training.data.training_data import (
    days_with_examples,
    first_meetings,
    fit_encoder_on,
    known_positives,
    read_training_data,
    split_validation_days,
)
from training.epochs import EpochReport
from training.fit import fit_phase
from training.phase import Phase, evaluation_of
from twinspire.load_config import load


def main(
    config_file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Configuration of a run.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    changes: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, repeatable.")] = None,
) -> None:
    """Print loss and recall of each epoch."""
    config = load(config_file, changes or [])
    sections, paths = pick(TrainSections, config), RunPaths(runs / config.name, config.as_of)
    training, alone = sections.training, sections.towers.model_copy(update={"factor_dim": 0})
    days = days_with_examples(paths, num_days=training.example_days, num_events=sections.example_events)
    encoder = fit_encoder_on(
        paths, days, dataset=sections.dataset, towers=alone, history_length=sections.history_length
    )
    earlier, held_out = split_validation_days(days, as_of=paths.as_of, num_days=training.validation_days)
    phase = Phase("validation", earlier, held_out, first_meetings(encoder, paths, since=held_out))
    known = known_positives(encoder, paths, before=held_out)
    data = read_training_data(
        paths, encoder, training=training, phase=phase.name, days=earlier, known=known, before=held_out
    )
    evaluation = evaluation_of(sections, paths, encoder, phase, known)
    console = Console()
    console.print(f"{int(data.item_counts.sum()):,} examples of {len(earlier)} days, validation from {held_out} on")

    def report(_: str, epoch: EpochReport) -> None:
        found = ", ".join(f"{name} {value:.4f}" for name, value in epoch.metrics.items() if "recall" in name)
        console.print(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, {found}")

    with TemporaryDirectory() as folder:
        fit_phase(
            encoder, data, towers=alone, training=training, seed=sections.seed, folder=Path(folder) / "fit",
            unfinished=Path(folder) / "unfinished", evaluate=evaluation.of_towers, report=report,
        )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
