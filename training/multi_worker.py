"""Training by several processes: the chief trains as one process alone would, the others fit with it and keep nothing.

Which processes they are is given by the environment variable TF_CONFIG.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from artefacts.paths import RunPaths
from training.config import TrainingConfig, TrainSections
from training.data.training_data import (
    days_with_examples,
    fit_encoder_on,
    known_positives,
    read_training_data,
    split_validation_days,
)
from training.distribution import read_cluster, workers
from training.fit import fit_phase


@contextmanager
def as_chief(training: TrainingConfig, *, nightly: bool) -> Iterator[None]:
    """Has the other processes take part in what the block fits, where there are any; they end when it does.

    Args:
        training: Says whether several processes fit.
        nightly: Whether it is a nightly run that fits.

    Raises:
        ValueError: This is not the chief, or a nightly run, in which the others cannot take part.
    """
    if training.distribute == "none":
        yield
        return
    if nightly:
        raise ValueError(
            "training.distribute is multi_worker, which a nightly run does not support: its warm start from the "
            "previous fit is made by one process; set training.distribute: none for it, or use `twinspire train` and "
            "then `twinspire run`"
        )
    cluster = read_cluster()
    if cluster is not None and not cluster.is_chief:
        raise ValueError(
            f"TF_CONFIG makes this process {cluster.number} of {cluster.size}, and only the first, 0, writes what is "
            "made; here, run `twinspire train`"
        )
    processes = workers()
    yield
    processes.wait()


def take_part(sections: TrainSections, paths: RunPaths) -> str:
    """Fits what the chief's `train` fits, together with it; returns one line of outcome.

    Args:
        sections: What the chief's `train` reads of the configuration.
        paths: Where tables and features are read; nothing is written there.
    """
    processes, training = workers(), sections.training
    days = days_with_examples(paths, num_days=training.example_days)
    encoder = fit_encoder_on(
        paths, days, dataset=sections.dataset, towers=sections.towers, history_length=sections.history_length
    )
    earlier, held_out = split_validation_days(days, as_of=paths.as_of, num_days=training.validation_days)
    phases = [("validation", earlier, held_out)] if earlier else []
    phases.append(("final", days, paths.as_of))
    with TemporaryDirectory() as folder:
        for name, fitted, moment in phases:
            known = known_positives(encoder, paths, before=moment)
            data = read_training_data(
                paths, encoder, training=training, phase=name, days=fitted, known=known, before=moment
            )
            fit_phase(
                encoder,
                data,
                towers=sections.towers,
                training=training,
                seed=sections.seed,
                folder=Path(folder),
                evaluate=lambda towers: {},
                report=lambda title, report: None,
            )
    processes.wait()
    return f"{len(days)} days, with the chief, as process {processes.cluster.number} of {processes.cluster.size}"
