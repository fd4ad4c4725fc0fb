"""Batches of examples: days encoded once, in time order, shuffled within spans of days.

Shape letters: E examples, B rows of a batch, C = B + S shared candidates, S shared negatives, Q items of the queue, H
private negatives of a row.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features import columns, examples
from features.encoding import HISTORY, HISTORY_AGE, Encoder, Inputs, moments_of
from training.data.example_weights import REWARDS, Fade, Reward, balanced
from training.data.positions import TARGET, TARGET_LOG_Q, TARGET_PREFIX, Targets, without_some
from training.negatives import queue, sampling_bias, source
from training.negatives.known_positives import KnownPositives, false_negatives
from training.negatives.private import PrivateNegatives, draw_private, log_q_of_hard, mask_private

if TYPE_CHECKING:
    from training.data.teacher_lists import TeacherLists

Ints = npt.NDArray[np.int64]
USER_PREFIX, ITEM_PREFIX = "user/", "item/"
MASK, LOG_Q, PRIVATE_LOG_Q, WEIGHT = "mask", "log_q", "private_log_q", "weight"
ITEM_GRADIENT, TEACHER = "item_gradient", "teacher"
Batch = dict[str, npt.NDArray[np.generic]]
Keep = Callable[[dt.date, Ints], npt.NDArray[np.bool_]]
"""Which examples of a day are taken: day, rows of their users [E] -> [E]."""


@dataclass(frozen=True)
class Span:
    """Encoded examples of consecutive days.

    Attributes:
        users, items, uniform: Model inputs of the distinct user moments, item moments and uniform negatives.
        user_row, item_row: [E] int64, rows of `users` and `items`.
        weight: [E] float32, the reward of each example.
        context: [E] inputs of columns of events, which are missing in `users`.
        list_row: [E] int64, the teacher's list for each example's user at its day, -1 for none; empty where there is no
            teacher.
    """

    users: Inputs
    items: Inputs
    uniform: Inputs
    user_row: Ints
    item_row: Ints
    weight: npt.NDArray[np.float32]
    context: Inputs = field(default_factory=dict)
    list_row: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.user_row)


def load_span(
    folder: Path,
    days: Sequence[dt.date],
    encoder: Encoder,
    *,
    only_first: bool,
    user_balance: float,
    reward: Reward,
    reward_power: float,
    fade: Fade | None = None,
    keep: Keep | None = None,
    teacher: TeacherLists | None = None,
) -> Span:
    """Reads and encodes the partitions of some days.

    Args:
        folder: Where the partitions are.
        days: In time order.
        encoder: The dataset's encoder.
        only_first: Keep only the events with which a user meets an item for the first time.
        user_balance: The power of `training.data.example_weights.balanced`, over the examples of these days.
        reward: What an example counts, one of `training.data.example_weights.REWARDS`.
        reward_power: Exponent that tempers it.
        fade: How much less older examples count; None has all ages count alike.
        keep: Which examples of a day are taken, by the rows of their users; None takes all.
        teacher: Whose lists the examples get; None has none.

    Raises:
        ValueError: A reward or a value is not finite; the message has the day and the first user and item.
    """
    parts = []
    for day in days:
        parts.append(_encode_day(examples.Day.load(folder / str(day)), encoder, only_first=only_first, reward=reward))
        if reward != "none":
            _check_rewards(parts[-1], folder / str(day), encoder, nan_is_missing=reward == "value")
    if fade is not None:
        parts = [replace(part, weight=part.weight * fade.of(day)) for day, part in zip(days, parts, strict=True)]
    if keep is not None:
        parts = [_kept(part, keep(day, _example_users(part))) for day, part in zip(days, parts, strict=True)]
    if teacher is not None:
        lists = [teacher.rows_of(day, _example_users(part)) for day, part in zip(days, parts, strict=True)]
        parts = [replace(part, list_row=rows) for part, rows in zip(parts, lists, strict=True)]
    user_offset = np.cumsum([0, *(len(part.users[columns.USER_ID]) for part in parts)])
    item_offset = np.cumsum([0, *(len(part.items[columns.ITEM_ID]) for part in parts)])
    span = Span(
        users=_joined([part.users for part in parts]),
        items=_joined([part.items for part in parts]),
        uniform=_joined([part.uniform for part in parts]),
        user_row=np.concatenate([part.user_row + start for part, start in zip(parts, user_offset, strict=False)]),
        item_row=np.concatenate([part.item_row + start for part, start in zip(parts, item_offset, strict=False)]),
        weight=np.concatenate([part.weight for part in parts]),
        context=_joined([part.context for part in parts]),
        list_row=np.concatenate([part.list_row for part in parts]),
    )
    users = _example_users(span)
    weight = REWARDS[reward](span.weight, reward_power)
    return replace(span, weight=balanced(weight, users, user_balance))


@dataclass(frozen=True)
class BatchPlan:
    """How batches are made.

    Attributes:
        batch_size: B, about; see `batches`.
        in_batch: Whether the rows' items are each other's negatives.
        queue_size: Q.
        sources: What else is drawn, see `training.negatives`.
        known: What each user is known to have met, masked as negatives.
        num_item_rows: Rows of the item table.
        catalogue_size: Items that even draws are made from.
        correct: Whether log q is worked out; otherwise it is 0.
        frequency: Estimates the items' shares while the batches pass; None counts the examples of each span.
        history_dropout: Share of the items of an example's history that are left out at random, so that a user is not
            recognised by a single one (Liang et al. (Mult-VAE), WWW 2018, section 2.2). The others close up.
        num_positions: P, earlier positions of each history that are examples, too.
        context_dropout: Share of the examples whose event columns are made missing.
        item_dropout: Share of the items of each batch that are described as if they had no events: wherever in the
            batch they are, so that a column's chance to be there, and with it log q, is not changed by it.
        hard_weight: What a negative that is there for sure counts, in easy ones of its row on average; None leaves its
            score as it is.
        without_events: What counts events in such an item's inputs, see `Encoder.without_events`.
        teacher: Whose scores of the candidates come along; None has none.
        num_mined: How many of a row's private negatives are mined, the first ones: where the teacher takes one for a
            positive, it does not count.
    """

    batch_size: int
    in_batch: bool
    queue_size: int
    sources: Sequence[source.Source]
    known: KnownPositives
    num_item_rows: int
    catalogue_size: int
    correct: bool
    frequency: sampling_bias.StreamingFrequency | None
    history_dropout: float = 0.0
    num_positions: int = 0
    context_dropout: float = 0.0
    item_dropout: float = 0.0
    hard_weight: float | None = None
    without_events: Inputs = field(default_factory=dict)
    teacher: TeacherLists | None = None
    num_mined: int = 0


def epoch_batches(spans_of_days: Iterable[Span], plan: BatchPlan, *, seed: Sequence[int]) -> Iterator[Batch]:
    """Batches of all spans of an epoch, through which the queue runs on; arguments and result as in `batches`."""
    recent, number = queue.RecentItems(plan.queue_size), 0
    for span in spans_of_days:
        yield from batches(span, plan, seed=[*seed, number], recent=recent)
        number += 1  # noqa: SIM113
        # Before the next one is read, so that there is one in memory; enumerate would hold it too.
        del span


def batches(
    span: Span, plan: BatchPlan, *, seed: Sequence[int], recent: queue.RecentItems | None = None
) -> Iterator[Batch]:
    """Batches of a span in random order and of equal size, as near to B as that allows; each example comes once.

    Args:
        span: The examples.
        plan: How batches are made.
        seed: Of the order and of the choice of negatives.
        recent: The queue's items, which are read and pushed to; None begins with an empty queue.

    Yields:
        `user/<input>` [B, ...], `item/<input>` [C + B H, ...] (own items first, then the shared negatives, then the H
        private ones of each row in turn), `mask` [B, C + Q + H] bool, `log_q` [C + Q] float32, `private_log_q` [B, H]
        float32 where H > 0, `item_gradient` [C + Q] float32 where there is a queue to correct for (see
        `training.losses.objective.Outputs`), `weight` [B] float32. Where positions are examples: `target/<input>` [n,
        ...], `target` [B, P] int32, which of these a position is to find, or -1, and `target_log_q` [n] float32. Where
        there is a teacher: `teacher` [B, C + Q + H] float32, its scores.

    Raises:
        ValueError: A source cannot draw from the span.
    """
    rng = np.random.default_rng(seed)
    recent = recent or queue.RecentItems(plan.queue_size)
    order = rng.permutation(len(span))
    described = _ids(span.items, columns.ITEM_ID)
    descriptions = source.Descriptions(
        np.concatenate([described, _ids(span.uniform, columns.ITEM_ID)]),
        num_of_examples=len(described),
        num_item_rows=plan.num_item_rows,
        catalogue_size=plan.catalogue_size,
    )
    draws = [begin(descriptions, rng) for begin in plan.sources]
    counts = count_items([span], plan.num_item_rows)
    # Equal parts: a handful of left-over rows would make a step as large as that of a full batch.
    num_batches = max(1, round(len(order) / plan.batch_size))
    for rows in np.array_split(order, num_batches):
        users, own = _rows(span.users, span.user_row[rows]), _rows(span.items, span.item_row[rows])
        if span.context:
            given = rng.random(len(rows)) >= plan.context_dropout
            for name, values in span.context.items():
                users[name][given] = values[rows[given]]
        if plan.history_dropout:
            users |= without_some(users[HISTORY], users[HISTORY_AGE], plan.history_dropout, rng)
        targets = Targets.of(users[HISTORY], plan.num_positions, descriptions, rng) if plan.num_positions else None
        user_rows = _ids(users, columns.USER_ID)
        lists = span.list_row if plan.teacher is None else span.list_row[rows]
        drawn = _draw(draws, user_rows, descriptions, rng)
        items = [_candidates(span, own, drawn), *([] if targets is None else [_described(span, targets.rows)])]
        if plan.item_dropout:
            without_events(items, rng.random(plan.num_item_rows) < plan.item_dropout, plan.without_events)
        yield {
            **_prefixed(USER_PREFIX, users),
            **_prefixed(ITEM_PREFIX, items[0]),
            **_comparison(plan, user_rows, _ids(own, columns.ITEM_ID), drawn, recent, counts, targets, lists),
            **({} if targets is None else _prefixed(TARGET_PREFIX, items[1])),
            WEIGHT: span.weight[rows],
        }


def without_events(described: Sequence[Inputs], dropped: npt.NDArray[np.bool_], none: Inputs) -> None:
    """Describes some items as if they had no events, in place.

    Args:
        described: Inputs of items, which are copies.
        dropped: [rows of items] bool, which items.
        none: What counts events in the inputs of such an item: by input, its first numbers [S].
    """
    for inputs in described:
        which = dropped[_ids(inputs, columns.ITEM_ID)]
        for name, values in none.items():
            inputs[name][which, : len(values)] = values


@dataclass(frozen=True)
class _Drawn:
    """What the sources have drawn for a batch.

    Attributes:
        shared: [S] rows of the span's descriptions.
        shared_items: [S] the items of these rows.
        private: Negatives of each row alone; None where no source has any.
        absences: Item rows [n] -> of each source, the probability that it does not bring them.
    """

    shared: Ints
    shared_items: Ints
    private: PrivateNegatives | None
    absences: Callable[[Ints], list[npt.NDArray[np.float64] | float]]


def _draw(
    draws: Sequence[source.Draws], user_rows: Ints, descriptions: source.Descriptions, rng: np.random.Generator
) -> _Drawn:
    none = np.empty(0, np.int64)
    shared = [none if draw.shared is None else draw.shared() for draw in draws]
    items = [descriptions.items[rows] for rows in shared]
    private = draw_private(draws, user_rows, descriptions, rng=rng)
    return _Drawn(
        np.concatenate([none, *shared]),
        np.concatenate([none, *items]),
        private,
        lambda item_rows: [draw.absence(item_rows, own) for draw, own in zip(draws, items, strict=True)],
    )


def _candidates(span: Span, own: Inputs, drawn: _Drawn) -> Inputs:
    """Inputs of the rows' own items, of the shared negatives and of the private ones, one below the other."""
    parts = [own, _described(span, drawn.shared)]
    if drawn.private is not None:
        parts.append(_described(span, drawn.private.rows.ravel()))
    return _stack(parts)


def _described(span: Span, rows: Ints) -> Inputs:
    """Item inputs at rows of the span's descriptions: those of the examples' items, then those drawn evenly."""
    num_of_examples = len(span.items[columns.ITEM_ID])
    is_even = rows >= num_of_examples
    if is_even.all():
        return _rows(span.uniform, rows - num_of_examples)
    picked = _rows(span.items, np.where(is_even, 0, rows))
    for name, values in span.uniform.items():
        picked[name][is_even] = values[rows[is_even] - num_of_examples]
    return picked


def _comparison(
    plan: BatchPlan, users: Ints, own: Ints, drawn: _Drawn, recent: queue.RecentItems, counts: Ints,
    targets: Targets | None, list_rows: Ints,
) -> Batch:  # fmt: skip
    """The mask, the log q and the teacher's scores of a batch; the queue takes its items in."""
    private = drawn.private
    candidates = np.concatenate([own, drawn.shared_items, recent.read()])
    mask = false_negatives(users, candidates, plan.known, in_batch=plan.in_batch)
    if plan.frequency is not None:
        plan.frequency.update(own)

    def log_q(item_rows: Ints, *, with_queue: bool = True) -> npt.NDArray[np.float32]:
        if not plan.correct:
            return np.zeros(len(item_rows), np.float32)
        in_batch = len(users) - 1 if plan.in_batch else 0
        absences = _absences(plan.frequency, item_rows, counts, in_batch, recent.drawn if with_queue else [])
        return sampling_bias.log_of(sampling_bias.presence([*absences, *drawn.absences(item_rows)]))

    made: Batch = {MASK: mask, LOG_Q: log_q(candidates)}
    if plan.queue_size and plan.correct:
        # An item takes no gradient while only the queue holds it: what its vector misses then, it gets in the batch.
        made[ITEM_GRADIENT] = np.exp(log_q(candidates) - log_q(candidates, with_queue=False))
    if private is not None:
        combined = mask_private(mask, private, users, candidates, plan.known, in_batch=plan.in_batch)
        private_log_q = np.zeros(private.items.shape, np.float32)
        if plan.hard_weight is not None and plan.correct:
            easy = combined[:, : len(candidates)]
            private_log_q += log_q_of_hard(log_q(candidates), easy, weight=plan.hard_weight)[:, None]
        by_chance = private.items[:, private.num_certain :]
        private_log_q[:, private.num_certain :] = log_q(by_chance.ravel()).reshape(by_chance.shape)
        made |= {MASK: combined, PRIVATE_LOG_Q: private_log_q}
    if plan.teacher is not None:
        made |= _taught(plan.teacher, list_rows, candidates, private, made[MASK].astype(bool), plan.num_mined)
    if targets is not None:
        made |= {TARGET: targets.place, TARGET_LOG_Q: log_q(targets.items)}
    recent.push(own, counts)
    return made


def _taught(
    teacher: TeacherLists, list_rows: Ints, candidates: Ints, private: PrivateNegatives | None,
    mask: npt.NDArray[np.bool_], num_mined: int,
) -> Batch:  # fmt: skip
    """The teacher's scores of all columns, and the mask with those mined ones that it takes for positives."""
    scores = teacher.scores_of_candidates(list_rows, candidates)
    if private is None:
        return {TEACHER: scores}
    lists, first = list_rows[:, None], len(candidates)
    dropped = mask.copy()
    dropped[:, first : first + num_mined] |= teacher.are_above(lists, private.items[:, :num_mined])
    return {TEACHER: np.concatenate([scores, teacher.scores_of(lists, private.items)], axis=1), MASK: dropped}


def _prefixed(prefix: str, inputs: Inputs) -> Batch:
    return {prefix + name: values for name, values in inputs.items()}


def _absences(
    frequency: sampling_bias.StreamingFrequency | None,
    item_rows: Ints,
    counts: Ints,
    in_batch: int,
    queued: Sequence[tuple[Ints, int]],
) -> Iterator[npt.NDArray[np.float64]]:
    """Probabilities that the examples a row meets have not some items: [n] for each span that they are drawn from.

    Args:
        frequency: The streaming estimate; None counts.
        item_rows: [n] the items.
        counts: [rows of items] examples of each item in the span of the batch.
        in_batch: Other rows of the batch that a row meets.
        queued: Likewise counts of the spans of the queue's items, and how many it has of each.
    """
    if frequency is not None:
        num_examples = in_batch + sum(num for _, num in queued)
        yield np.power(1 - np.minimum(frequency.shares(item_rows), 1.0), num_examples)
        return
    earlier = list(queued)
    same_span = earlier.pop()[1] if earlier and earlier[-1][0] is counts else 0
    # A row meets its own example at no other place.
    others = int(counts.sum()) - 1
    yield sampling_bias.absence_from_examples(counts[item_rows], population=others, num_drawn=in_batch + same_span)
    for span, num in earlier:
        yield sampling_bias.absence_from_examples(span[item_rows], population=int(span.sum()), num_drawn=num)


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
        del span  # before the next one is read


def count_items(spans_of_days: Iterable[Span], num_item_rows: int) -> Ints:
    """Examples of each item: [num_item_rows] int64."""
    total = np.zeros(num_item_rows, np.int64)
    for span in spans_of_days:
        total += np.bincount(span.items[columns.ITEM_ID][span.item_row], minlength=num_item_rows)
    return total


def _encode_day(day: examples.Day, encoder: Encoder, *, only_first: bool, reward: Reward) -> Span:
    events = day.events
    span = Span(
        users=encoder.encode_users(day.users, as_of_seconds=moments_of(day.users)),
        items=encoder.encode_items(day.items, as_of_seconds=moments_of(day.items)),
        uniform=encoder.encode_items(day.uniform, as_of_seconds=moments_of(day.uniform)),
        user_row=events.column(examples.USER_ROW).to_numpy(),
        item_row=events.column(examples.ITEM_ROW).to_numpy(),
        weight=events.column(columns.VALUE if reward == "value" else columns.REWARD).to_numpy().astype(np.float32),
        context=encoder.encode_events(events, as_of_seconds=moments_of(events, columns.TIMESTAMP)),
    )
    return _kept(span, events.column(examples.FIRST_MEETING).to_numpy()) if only_first else span


def _check_rewards(span: Span, path: Path, encoder: Encoder, *, nan_is_missing: bool) -> None:
    bad = np.isinf(span.weight) if nan_is_missing else ~np.isfinite(span.weight)
    if bad.any():
        first = int(bad.argmax())
        named = [
            ids.ids([row]) if 0 < row < len(ids) else ["unknown"]
            for ids, row in (
                (encoder.user_ids, _example_users(span)[first]),
                (encoder.item_ids, _ids(span.items, columns.ITEM_ID)[span.item_row[first]]),
            )
        ]
        raise ValueError(
            f"{path}: {bad.sum():,} of {len(bad):,} rewards or values are not finite, first that of user {named[0][0]} "
            f"and item {named[1][0]}, {span.weight[first]:g}; correct the event in the source, or set "
            "training.reward: none"
        )


def _kept(span: Span, chosen: npt.NDArray[np.bool_]) -> Span:
    context = {name: values[chosen] for name, values in span.context.items()}
    user_row, item_row, weight = span.user_row[chosen], span.item_row[chosen], span.weight[chosen]
    return replace(span, user_row=user_row, item_row=item_row, weight=weight, context=context)


def _example_users(span: Span) -> Ints:
    """Row of each example's user in the id table: [E]."""
    return _ids(span.users, columns.USER_ID)[span.user_row]


def _stack(parts: Sequence[Inputs]) -> Inputs:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[Inputs]) -> Inputs:
    """As `_stack`, out of parts that are empty then: memory has two copies only of the input that is being joined."""
    return {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}


def _rows(inputs: Inputs, rows: Ints) -> Inputs:
    return {name: values[rows] for name, values in inputs.items()}


def _ids(inputs: Inputs, name: str) -> Ints:
    return inputs[name].astype(np.int64)
