"""Is an item's row of a midnight what a slow twin finds that sums over the whole past again each time?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.item_snapshots import ItemRows, snapshots
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
).map(sorted)
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


def rows_of(events: list[Event], run: dict[str, Any]) -> list[ItemRows]:
    first = START + run["first"]
    used = [event for event in events if event.seconds < (first + run["num_days"]) * DAY_SECONDS]
    columns = zip(*used, strict=True) if used else ((), (), (), ())
    seconds, _, items, values = (np.array(column) for column in columns)
    # The job knows nobody's name here: users only leave the mark of their first meeting.
    nobody = np.zeros(len(used), np.int64)
    return list(
        snapshots(
            Events(nobody, items.astype(np.int64), seconds.astype(np.int64), values.astype(np.float64)),
            np.array(first_meetings(used), dtype=np.int64),
            NUM_ITEMS,
            first_day=first,
            end_day=first + run["num_days"],
            refresh=np.array(run["refresh"]),
            refresh_days=run["refresh_days"],
        )
    )


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
def test_rows_are_everythings_first_then_of_what_was_bought_and_what_is_due(
    events: list[Event], run: dict[str, Any]
) -> None:
    made = rows_of(events, run)
    first = START + run["first"]
    days = range(first, first + run["num_days"] + 1)
    assert [rows.moment for rows in made] == [day * DAY_SECONDS for day in days]
    newest = np.full(NUM_ITEMS, first)
    for day, rows in zip(days, made, strict=True):
        bought = {event.item for event in events if event.seconds // DAY_SECONDS == day - 1}
        due = {item for item in range(NUM_ITEMS) if (day + run["refresh"][item]) % run["refresh_days"] == 0}
        assert rows.item.tolist() == (sorted(bought | due) if day > first else list(range(NUM_ITEMS)))
        newest[rows.item] = day
        assert (day - newest).max() < run["refresh_days"]


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
    assert made[0].fast_new_rate[0] == pytest.approx(after)
    assert made[7].fast_new_rate[0] == pytest.approx(after / 2)
    assert made[7].fast_rate[0] == pytest.approx(after / 2 + after * 2 ** (-4 / 7))
    assert made[7].num_buyers[0] == 1
