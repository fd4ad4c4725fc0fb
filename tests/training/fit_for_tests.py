"""Fits small towers on partitions: `python fit_for_tests.py FOLDER OUT SEED` writes their weights to OUT.npz."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import numpy.typing as npt

from features.encoding import Encoder
from towers.history import weighted_means
from towers.two_tower import TwoTower, build_two_tower
from training.data.batches import Batch, BatchPlan, Span, epoch_batches, load_span, spans
from training.distribution import Alone, Processes
from training.epochs import EpochReport
from training.fit_loop import fit
from training.losses.softmax import softmax_term
from training.negatives.even_draws import per_row, uniform
from training.negatives.known_positives import KnownPositives
from training.negatives.private import UserNegatives, listed
from training.negatives.source import Source
from training.optimizers import make_optimizer
from training.trainer import RetrievalModel, make_deterministic


def negatives_of(*, in_batch: bool = True, queue_size: int = 0, **drawn: Any) -> dict[str, Any]:
    """The part of a `BatchPlan` that is about negatives; `drawn` as the arguments of `sources_of`."""
    return {"in_batch": in_batch, "queue_size": queue_size, "sources": sources_of(**{"num_uniform": 8, **drawn})}


def sources_of(
    *,
    num_uniform: int,
    num_random: int = 0,
    mined: UserNegatives | None = None,
    num_mined: int = 0,
    impressions: UserNegatives | None = None,
    num_impressions: int = 0,
) -> list[Source]:
    """Sources in the order in which they are fitted with."""
    lists = [(mined, num_mined), (impressions, num_impressions)]
    certain = [listed(negatives, num=num) for negatives, num in lists if negatives is not None and num]
    return [uniform(num=num_uniform), *certain, per_row(num=num_random)]


def fit_small(
    folder: Path,
    out: Path,
    *,
    seed: int,
    epochs: int = 2,
    learning_rate: float = 0.1,
    optimizer: Any = None,
    evaluate: Callable[[TwoTower], dict[str, float]] = lambda towers: {},
    make: Callable[[Encoder], RetrievalModel] | None = None,
    negatives: dict[str, Any] | None = None,
    batch_size: int = 32,
    processes: Processes | None = None,
    **changes: Any,
) -> tuple[RetrievalModel, list[EpochReport]]:
    """Fits towers on all days of `folder`; logs and checkpoints go to `out`."""
    processes = processes or Alone()
    encoder = Encoder.load(folder / "encoder")
    make_deterministic(seed)
    batches_of = batches_for(folder, encoder, seed=seed, negatives=negatives, batch_size=batch_size)
    with processes.scope():
        model = (make or plain_model)(encoder)
        optimizer = optimizer or make_optimizer("adagrad", learning_rate)
    reports = fit(
        model,
        epochs,
        batches_of=lambda epoch: processes.shares(batches_of(epoch)),
        optimizer=optimizer,
        folder=out,
        evaluate=evaluate,
        graph_of=processes.graph_of,
        **changes,
    )
    return model, reports


def batches_for(
    folder: Path, encoder: Encoder, *, seed: int, negatives: dict[str, object] | None = None, batch_size: int = 32
) -> Callable[[int], Iterator[Batch]]:
    """Batches of an epoch over all days of `folder`."""
    days = sorted(dt.date.fromisoformat(day.name) for day in (folder / "examples").iterdir())
    held: dict[dt.date, Span] = {}

    def all_spans() -> Iterator[Span]:
        return spans(
            days,
            2,
            lambda some: load_span(
                folder / "examples",
                some,
                encoder,
                only_first=True,
                user_balance=1.0,
                reward="reward",
                reward_power=1.0,
            ),
            held=held,
        )

    users, items = (
        np.concatenate([side(span) for span in all_spans()]).astype(np.int64)
        for side in (
            lambda span: span.users["user_id"][span.user_row],
            lambda span: span.items["item_id"][span.item_row],
        )
    )
    plan = BatchPlan(
        batch_size=batch_size,
        known=KnownPositives.of(users, items, num_user_rows=len(encoder.user_ids)),
        num_item_rows=len(encoder.item_ids),
        catalogue_size=len(encoder.item_ids) - 1,
        correct=True,
        frequency=None,
        **negatives_of(**(negatives or {})),
    )

    def batches_of(epoch: int) -> Iterator[Batch]:
        return epoch_batches(all_spans(), plan, seed=[seed, epoch])

    return batches_of


def plain_model(encoder: Encoder) -> RetrievalModel:
    """Small towers and the softmax alone."""
    towers = build_two_tower(
        encoder.input_specs("user"),
        encoder.input_specs("item"),
        embedding_dim=8,
        hidden_units=(6,),
        history=weighted_means(decay_days=[30.0], power=0.5),
    )
    terms = [(1.0, softmax_term("yi2019"))]
    return RetrievalModel(towers, terms=terms, temperature=0.2, learn_temperature=False)


def weights_of(model: RetrievalModel) -> dict[str, npt.NDArray[np.float32]]:
    """The trained values by place and name; tables that both towers share come twice."""
    towers = {"user": model.user_tower, "item": model.item_tower}
    return {
        f"{tower} {number} {variable.name}": variable.numpy()
        for tower, part in towers.items()
        for number, variable in enumerate(part.weights)
    }


if __name__ == "__main__":
    _, folder_name, out_name, seed_text = sys.argv
    fitted, _ = fit_small(Path(folder_name), Path(out_name), seed=int(seed_text))
    np.savez(Path(out_name) / "weights.npz", **{name.replace("/", "|"): w for name, w in weights_of(fitted).items()})
