"""What are the arms fitted on and judged with? The examples before the held-out days, and what came on those."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from evaluation.metrics import judge, recall_at_k
from features.columns import ITEM_ID, USER_ID
from features.days import day_range, seconds_of
from features.encoding import Encoder, Inputs, fit_encoder, moments_of
from features.examples import Day
from features.schema import Tower
from serving import exact
from training.dataset import Span, load_span
from training.negatives import KnownPositives
from twinspire.config import Config
from twinspire.paths import RunPaths

Floats = npt.NDArray[np.float32]
K = 100


@dataclass(frozen=True)
class World:
    """What the arms are fitted on and judged with, as known on the first held-out day.

    Attributes:
        encoder: The dataset's encoder.
        span: All examples, encoded.
        known: What each user had met.
        users, items: Inputs of everybody and everything.
        seen: [users, items] what each user had met.
        relevant: [users, items] what each user met first on the held-out days.
    """

    encoder: Encoder
    span: Span
    known: KnownPositives
    users: Inputs
    items: Inputs
    seen: sparse.csr_array
    relevant: sparse.csr_array

    def recall(self, user_vectors: Floats, item_vectors: Floats) -> float:
        """Mean recall@K of new items by exact search, over users who met any."""
        ranked, _ = exact.search(user_vectors, item_vectors, k=K, exclude=self.seen)
        return float(np.nanmean(recall_at_k(judge(ranked, self.relevant), K)))


def load_world(config: Config, paths: RunPaths, *, told: str) -> World:
    """Reads what `twinspire features` has left; `told` are the options that it is given where nothing is there."""
    settings = config.training
    held_out = config.as_of - dt.timedelta(days=settings.validation_days)
    days = [
        day
        for day in day_range(config.as_of - dt.timedelta(days=settings.example_days), held_out)
        if (paths.examples / str(day)).exists()
    ]
    if not days or not paths.pairs.exists():
        raise SystemExit(
            f"{paths.examples}: no examples of the days before {held_out}; "
            f"make them with: twinspire ingest {told} && twinspire features {told}"
        )

    def samples() -> Iterator[tuple[Tower, pa.Table]]:
        for day in days:
            loaded = Day.load(paths.examples / str(day))
            yield from (("user", loaded.users), ("item", loaded.items), ("item", loaded.uniform))

    encoder = fit_encoder(
        config.dataset,
        pq.read_table(paths.tables / "users.parquet"),
        pq.read_table(paths.tables / "items.parquet"),
        samples(),
        history_length=config.features.history_length,
        text_length=config.towers.text_length,
        text_buckets=config.towers.text_buckets,
    )
    pairs = pq.read_table(paths.pairs)
    users = encoder.user_ids.rows(pairs.column(USER_ID).to_numpy(zero_copy_only=False)).astype(np.int64)
    items = encoder.item_ids.rows(pairs.column(ITEM_ID).to_numpy(zero_copy_only=False)).astype(np.int64)
    before = pairs.column("first_seconds").cast("int64").to_numpy() < seconds_of(held_out)
    shape = (len(encoder.user_ids) - 1, len(encoder.item_ids) - 1)

    def matrix(chosen: npt.NDArray[np.bool_]) -> sparse.csr_array:
        ones = np.ones(int(chosen.sum()), np.float32)
        return sparse.csr_array((ones, (users[chosen] - 1, items[chosen] - 1)), shape=shape)

    catalogue = {name: pq.read_table(paths.catalogue(held_out) / f"{name}.parquet") for name in ("users", "items")}
    return World(
        encoder=encoder,
        span=load_span(
            paths.examples,
            days,
            encoder,
            only_first=settings.examples == "first_meetings",
            user_balance=settings.user_balance,
        ),
        known=KnownPositives.of(users[before], items[before], num_user_rows=len(encoder.user_ids)),
        users=encoder.encode_users(catalogue["users"], as_of_seconds=moments_of(catalogue["users"])),
        items=encoder.encode_items(catalogue["items"], as_of_seconds=moments_of(catalogue["items"])),
        seen=matrix(before),
        relevant=matrix(~before),
    )
