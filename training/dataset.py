"""How do days of examples become batches? Encoded once, in time order, shuffled within spans of days.

Shape letters: E examples, B rows of a batch, C = B + B' candidates, B' uniform negatives.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features import columns
from features.encoding import Encoder, Inputs, moments_of
from features.examples import FIRST_MEETING, ITEM_ROW, USER_ROW, Day
from training.negatives import KnownPositives, false_negatives
from training.sampling_bias import expected_draws

Ints = npt.NDArray[np.int64]
USER_PREFIX, ITEM_PREFIX = "user/", "item/"
MASK, LOG_Q, WEIGHT = "mask", "log_q", "weight"
Batch = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Span:
    """Encoded examples of consecutive days.

    Attributes:
        users, items, uniform: Model inputs of the distinct user moments, item moments and uniform negatives.
        user_row, item_row: [E] int64, rows of `users` and `items`.
        weight: [E] float32, the reward of each example.
    """

    users: Inputs
    items: Inputs
    uniform: Inputs
    user_row: Ints
    item_row: Ints
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.user_row)


def load_span(
    folder: Path, days: Sequence[dt.date], encoder: Encoder, *, only_first: bool, user_balance: float
) -> Span:
    """Reads and encodes the partitions of some days.

    Args:
        folder: Where the partitions are.
        days: In time order.
        encoder: The dataset's encoder.
        only_first: Keep only the events with which a user meets an item for the first time.
        user_balance: See `balance_users`.
    """
    parts = [_encode_day(Day.load(folder / str(day)), encoder, only_first=only_first) for day in days]
    user_offset = np.cumsum([0, *(len(part.users[columns.USER_ID]) for part in parts)])
    item_offset = np.cumsum([0, *(len(part.items[columns.ITEM_ID]) for part in parts)])
    span = Span(
        users=_stack([part.users for part in parts]),
        items=_stack([part.items for part in parts]),
        uniform=_stack([part.uniform for part in parts]),
        user_row=np.concatenate([part.user_row + start for part, start in zip(parts, user_offset, strict=False)]),
        item_row=np.concatenate([part.item_row + start for part, start in zip(parts, item_offset, strict=False)]),
        weight=np.concatenate([part.weight for part in parts]),
    )
    return balance_users(span, user_balance)


def balance_users(span: Span, power: float) -> Span:
    """Divides each example's weight by the number of its user's examples in the span, to a power.

        w_i <- w_i n_u(i)^-power / mean

    Recall is a mean over users, the loss a sum over examples; without this a tenth of the users decides what is
    learned.

    Args:
        span: The examples.
        power: 0 leaves examples alike, 1 makes users count alike.

    Returns:
        The same examples with weights whose mean is what it was.
    """
    if not len(span) or power == 0:
        return span
    user = span.users[columns.USER_ID][span.user_row]
    weight = span.weight * np.bincount(user)[user].astype(np.float64) ** -power
    total = weight.sum()
    return replace(span, weight=(weight * (span.weight.sum() / total if total else 1.0)).astype(np.float32))


@dataclass(frozen=True)
class BatchPlan:
    """How batches are made.

    Attributes:
        batch_size: B, about; see `batches`.
        num_uniform: B'.
        known: What each user is known to have met, masked as negatives.
        item_counts: [num item rows] int64, examples of each item among those trained on.
        correct: Whether log q is worked out; otherwise it is 0.
    """

    batch_size: int
    num_uniform: int
    known: KnownPositives
    item_counts: Ints
    correct: bool


def batches(span: Span, plan: BatchPlan, *, seed: Sequence[int]) -> Iterator[Batch]:
    """Batches of a span in random order and of equal size, as near to B as that allows; each example comes once.

    Args:
        span: The examples.
        plan: How batches are made.
        seed: Of the order and of the choice of uniform negatives.

    Yields:
        `user/<input>` [B, ...], `item/<input>` [C, ...] (own items first, then uniform negatives), `mask` [B, C] bool,
        `log_q` [C] float32, `weight` [B] float32.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(span))
    pool = rng.permutation(len(span.uniform[columns.ITEM_ID]))
    # Equal parts: a handful of left-over rows would make a step as large as that of a full batch.
    num_batches = max(1, round(len(order) / plan.batch_size))
    for number, rows in enumerate(np.array_split(order, num_batches)):
        drawn = pool[(number * plan.num_uniform + np.arange(plan.num_uniform)) % len(pool)]
        yield _batch(span, plan, rows, drawn)


def _batch(span: Span, plan: BatchPlan, rows: Ints, drawn: Ints) -> Batch:
    users = {name: values[span.user_row[rows]] for name, values in span.users.items()}
    own = span.item_row[rows]
    items = {name: np.concatenate([values[own], span.uniform[name][drawn]]) for name, values in span.items.items()}
    candidates = items[columns.ITEM_ID].astype(np.int64)
    log_q = np.zeros(len(candidates), np.float32)
    if plan.correct:
        draws = expected_draws(
            plan.item_counts[candidates],
            num_examples=int(plan.item_counts.sum()),
            batch_size=len(rows),
            num_uniform=plan.num_uniform,
            catalogue_size=len(plan.item_counts) - 1,
        )
        log_q = np.log(draws).astype(np.float32)
    return {
        **{USER_PREFIX + name: values for name, values in users.items()},
        **{ITEM_PREFIX + name: values for name, values in items.items()},
        MASK: false_negatives(users[columns.USER_ID].astype(np.int64), candidates, plan.known),
        LOG_Q: log_q,
        WEIGHT: span.weight[rows],
    }


def spans(
    days: Sequence[dt.date], size: int, load: Callable[[Sequence[dt.date]], Span], *, held: dict[dt.date, Span] | None
) -> Iterator[Span]:
    """Spans of at most `size` days, oldest first, each read when its turn comes.

    Args:
        days: In time order.
        size: Days in a span.
        load: Reads and encodes the days of one span.
        held: Spans kept in memory between epochs, by first day; None keeps none, so that memory is that of one span.
    """
    for begin in range(0, len(days), size):
        first = days[begin]
        span = held.get(first) if held is not None else None
        if span is None:
            span = load(days[begin : begin + size])
        if held is not None:
            held[first] = span
        if len(span):
            yield span


def count_items(spans_of_days: Iterable[Span], num_item_rows: int) -> Ints:
    """Examples of each item: [num_item_rows] int64."""
    total = np.zeros(num_item_rows, np.int64)
    for span in spans_of_days:
        total += np.bincount(span.items[columns.ITEM_ID][span.item_row], minlength=num_item_rows)
    return total


def _encode_day(day: Day, encoder: Encoder, *, only_first: bool) -> Span:
    events = day.events
    span = Span(
        users=encoder.encode_users(day.users, as_of_seconds=moments_of(day.users)),
        items=encoder.encode_items(day.items, as_of_seconds=moments_of(day.items)),
        uniform=encoder.encode_items(day.uniform, as_of_seconds=moments_of(day.uniform)),
        user_row=events.column(USER_ROW).to_numpy(),
        item_row=events.column(ITEM_ROW).to_numpy(),
        weight=events.column(columns.REWARD).to_numpy().astype(np.float32),
    )
    if not only_first:
        return span
    chosen = events.column(FIRST_MEETING).to_numpy()
    return replace(span, user_row=span.user_row[chosen], item_row=span.item_row[chosen], weight=span.weight[chosen])


def _stack(parts: Sequence[Inputs]) -> Inputs:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
