"""How do several processes train? The chief trains as one alone would, the others fit with it and keep nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from artefacts.paths import RunPaths
from training.distribution import read_cluster, workers
from training.fit import fit_phase
from training.training_data import (
    days_with_examples,
    first_day,
    fit_encoder_on,
    known_positives,
    read_material,
    validation_days,
)
from twinspire.config import Config


@contextmanager
def as_chief(config: Config, *, nightly: bool) -> Iterator[None]:
    """Has the others take part in what the block fits, where the configuration has them; they end when it does.

    Args:
        config: The configuration.
        nightly: Whether it is a nightly run that fits.

    Raises:
        ValueError: This is not the chief, or a nightly run, in which the others cannot take part.
    """
    if config.training.distribute == "none":
        yield
        return
    if nightly:
        raise ValueError(
            "training.distribute is multi_worker, which a nightly run cannot: it goes on from the fit before, by one "
            "process; set training.distribute: none for it, or use `twinspire train` and then `twinspire run`"
        )
    cluster = read_cluster()
    if cluster is not None and not cluster.is_chief:
        raise ValueError(
            f"TF_CONFIG says that this is process {cluster.number} of {cluster.size}, and only the first, 0, writes "
            "what is made; here, run `twinspire train`"
        )
    processes = workers()
    yield
    processes.wait()


def take_part(config: Config, paths: RunPaths) -> str:
    """Fits what the chief's `train` fits, beside it; returns one line of outcome.

    Args:
        config: The chief's configuration.
        paths: Where tables and features are read; nothing is written there.
    """
    processes = workers()
    days = days_with_examples(config, paths, first_day(config))
    encoder = fit_encoder_on(config, paths, days)
    earlier, held_out = validation_days(config, days)
    phases = [("validation", earlier, held_out)] if earlier else []
    phases.append(("final", days, config.as_of))
    with TemporaryDirectory() as folder:
        for name, fitted, moment in phases:
            known = known_positives(encoder, paths, before=moment)
            material = read_material(config, paths, encoder, name, fitted, known, before=moment)
            fit_phase(
                config,
                encoder,
                material,
                folder=Path(folder),
                look=lambda towers: {},
                say=lambda title, report: None,
            )
    processes.wait()
    return f"{len(days)} days, beside the chief, as process {processes.cluster.number} of {processes.cluster.size}"
