"""Item snapshots equal a slow twin that sums over the whole past at every midnight."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.item_snapshots import ItemRows, ItemState, snapshots
from beam_jobs.user_snapshots import DAY_SECONDS, Events

NUM_USERS, NUM_ITEMS, START = 4, 4, 17_000
HALF_LIVES = {"fast": 7.0, "slow": 28.0}


class Event(NamedTuple):
    seconds: int
    user: int
    item: int
    value: float


EVENTS = st.lists(
    st.builds(
        Event,
        st.builds(
            lambda day, second: (START + day) * DAY_SECONDS + second,
            st.integers(0, 11),
            st.sampled_from([0, 43_200, DAY_SECONDS - 1]),
        ),
        st.integers(0, NUM_USERS - 1),
        st.integers(0, NUM_ITEMS - 1),
        st.sampled_from([0.0, 0.25, 1.5, 8.0]),
    ),
    max_size=40,
).map(lambda events: sorted(set(events)))
RUNS = st.fixed_dictionaries(
    {
        "first": st.integers(-2, 8),
        "num_days": st.integers(0, 8),
        "refresh": st.lists(st.integers(0, 2**40), min_size=NUM_ITEMS, max_size=NUM_ITEMS),
        "refresh_days": st.integers(1, 5),
    }
)


def first_meetings(events: list[Event]) -> list[bool]:
    met = [(event.user, event.item) for event in events]
    return [pair not in met[:place] for place, pair in enumerate(met)]


def rows_of(events: list[Event], run: dict[str, Any], *, cut: int | None = None) -> list[ItemRows]:
    """Rows of a run from before the first event, of which those from `first` on are wanted; `cut` makes it two runs."""
    first = START + run["first"]
    end = first + run["num_days"]
    begin = min(START, first)
    days = sorted({begin, end} | ({START + cut} if cut is not None and begin < START + cut < end else set()))
    marks = dict(zip(events, first_meetings(events), strict=True))
    state = ItemState.empty(NUM_ITEMS, {})
    made: list[ItemRows] = []
    for first_day, end_day in itertools.pairwise(days):
        used = [event for event in events if first_day <= event.seconds // DAY_SECONDS < end_day]
        columns = zip(*used, strict=True) if used else ((), (), (), ())
        seconds, _, items, values = (np.array(column) for column in columns)
        # The job has no ids of users here: they only count in first meetings.
        no_users = np.zeros(len(used), np.int64)
        made += snapshots(
            state,
            Events(no_users, items.astype(np.int64), seconds.astype(np.int64), values.astype(np.float64)),
            np.array([marks[event] for event in used], dtype=np.int64),
            first_day=first_day,
            end_day=end_day,
            rows_from=first,
            is_new=np.full(NUM_ITEMS, first_day == begin),
            refresh=np.array(run["refresh"]),
            refresh_days=run["refresh_days"],
        )
    return made


def rate(days_ago: list[int], half_life: float) -> float:
    """An event of the day that just ended counts 1 - 2^(-1/h), each day earlier 2^(-1/h) times as much."""
    return sum((1 - 2 ** (-1 / half_life)) * 2 ** (-(ago - 1) / half_life) for ago in days_ago)


def known(events: list[Event], item: int, moment: int) -> dict[str, float]:
    marked = zip(events, first_meetings(events), strict=True)
    past = [(event, new) for event, new in marked if event.item == item and event.seconds < moment]
    ago = [(moment // DAY_SECONDS - event.seconds // DAY_SECONDS, new) for event, new in past]
    rates = {f"{name}_rate": rate([days for days, _ in ago], half) for name, half in HALF_LIVES.items()}
    rates |= {f"{name}_new_rate": rate([days for days, new in ago if new], half) for name, half in HALF_LIVES.items()}
    return {
        "num_events": len(past),
        "num_buyers": len({event.user for event, _ in past}),
        "price": sum(event.value for event, _ in past) / len(past) if past else 0.0,
        **rates,
    }


@given(EVENTS, RUNS)
def test_each_row_is_what_was_known_at_its_midnight(events: list[Event], run: dict[str, Any]) -> None:
    for rows in rows_of(events, run):
        for place, item in enumerate(rows.item):
            expected = known(events, item, rows.moment)
            found = {name: getattr(rows, name)[place].item() for name in expected}
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(EVENTS, RUNS)
def test_rows_are_of_what_was_bought_and_what_is_due(events: list[Event], run: dict[str, Any]) -> None:
    made = {rows.moment // DAY_SECONDS: rows for rows in rows_of(events, run)}
    first = START + run["first"]
    for day in range(max(first, min(START, first) + 1), first + run["num_days"] + 1):
        bought = {event.item for event in events if event.seconds // DAY_SECONDS == day - 1}
        due = {item for item in range(NUM_ITEMS) if (day + run["refresh"][item]) % run["refresh_days"] == 0}
        assert made[day].item.tolist() == sorted(bought | due)


@given(EVENTS, RUNS, st.integers(0, 12))
def test_a_run_from_the_state_of_a_midnight_gives_the_rows_of_one_run(
    events: list[Event], run: dict[str, Any], cut: int
) -> None:
    for rows, whole in zip(rows_of(events, run, cut=cut), rows_of(events, run), strict=True):
        for name, values in vars(whole).items():
            # To the last bit: the same sums in the same order.
            np.testing.assert_array_equal(getattr(rows, name), values)


def test_a_steady_demand_is_its_own_rate() -> None:
    """r <- r 2^(-1/h) + c (1 - 2^(-1/h)) has the fixed point c; after n days it is c (1 - 2^(-n/h)) away from 0."""
    events = [Event((START + day) * DAY_SECONDS, user, 0, 2.0) for day in range(140) for user in range(3)]
    run = {"first": 139, "num_days": 1, "refresh": [0] * NUM_ITEMS, "refresh_days": 1}
    last = rows_of(events, run)[-1]
    assert last.fast_rate[0] == pytest.approx(3 * (1 - 2**-20))
    assert last.slow_rate[0] == pytest.approx(3 * (1 - 2**-5))
    assert last.price[0] == 2.0


def test_a_first_meeting_counts_once_and_halves_in_a_week() -> None:
    events = [Event((START + day) * DAY_SECONDS + 5, 0, 0, 1.0) for day in (0, 3)]
    run = {"first": 1, "num_days": 7, "refresh": [0] * NUM_ITEMS, "refresh_days": 1}
    made = rows_of(events, run)
    after = 1 - 2 ** (-1 / 7)
    made = {rows.moment // DAY_SECONDS - START - 1: rows for rows in made}
    assert made[0].fast_new_rate[0] == pytest.approx(after)
    assert made[7].fast_new_rate[0] == pytest.approx(after / 2)
    assert made[7].fast_rate[0] == pytest.approx(after / 2 + after * 2 ** (-4 / 7))
    assert made[7].num_buyers[0] == 1
