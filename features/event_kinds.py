"""Kinds of events: what each counts, which are positives, and which make histories."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from features import columns

Purpose = Literal["positives", "histories"]


@dataclass(frozen=True)
class EventKinds:
    """The kinds that the events of a dataset are of.

    Attributes:
        rewards: Kind -> reward of its events that have none of their own.
        positives: Kinds that are fitted, relevant in evaluation, and make an item known to a user.
        histories: Kinds that make users' histories and statistics; the positives are among them.
    """

    rewards: Mapping[str, float]
    positives: tuple[str, ...]
    histories: tuple[str, ...]

    @classmethod
    def of(
        cls, rewards: Mapping[str, float], positives: Sequence[str] | None, histories: Sequence[str] | None
    ) -> EventKinds | None:
        """The kinds as configured; None where events have no kinds.

        Args:
            rewards: Kind -> reward.
            positives: None takes those with a reward.
            histories: None takes all.

        Raises:
            ValueError: A kind is unknown or named twice, none is a positive, or a positive makes no history.
        """
        if not rewards:
            if positives is not None or histories is not None:
                raise ValueError(
                    "names positive_kinds or history_kinds and no event_kinds; declare each kind with its reward, such "
                    "as event_kinds: {view: 0.1, purchase: 1}"
                )
            return None
        found = cls(
            dict(rewards),
            tuple(kind for kind, reward in rewards.items() if reward > 0) if positives is None else tuple(positives),
            tuple(rewards) if histories is None else tuple(histories),
        )
        for key, names in (("positive_kinds", found.positives), ("history_kinds", found.histories)):
            for name in names:
                if name not in rewards or names.count(name) > 1:
                    raise ValueError(f"{key} are {', '.join(names)}, expected some of {', '.join(rewards)}, each once")
        if not found.positives:
            raise ValueError(
                f"event_kinds are {', '.join(rewards)} without any reward, so that none is a positive; give one a "
                "reward above 0, or name positive_kinds"
            )
        if without := [kind for kind in found.positives if kind not in found.histories]:
            raise ValueError(
                f"history_kinds are {', '.join(found.histories) or '(none)'}, without the positive kind {without[0]}; "
                "what users are known to have met is part of their histories"
            )
        return found

    def reward_of(self, kind: pa.Array) -> pa.Array:
        """[n] float64 rewards of kinds, null where one is unknown."""
        rewards = pa.array(list(self.rewards.values()), pa.float64())
        return rewards.take(pc.index_in(kind, value_set=pa.array(list(self.rewards), pa.string())))

    def chosen(self, purpose: Purpose) -> tuple[str, ...]:
        """The positives, or those that make histories."""
        return self.positives if purpose == "positives" else self.histories

    def chooses_all(self, purpose: Purpose) -> bool:
        """Whether all kinds serve a purpose."""
        return len(self.chosen(purpose)) == len(self.rewards)


def of_kinds(events: pa.Table, kinds: Collection[str]) -> pa.Table:
    """The events that are of some kinds."""
    return events.filter(are_of_kinds(events, kinds))


def are_of_kinds(events: pa.Table, kinds: Collection[str]) -> pa.ChunkedArray:
    """Whether each event is of one of some kinds: [E] bool."""
    return pc.is_in(events.column(columns.KIND), value_set=pa.array(list(kinds), pa.string()))
