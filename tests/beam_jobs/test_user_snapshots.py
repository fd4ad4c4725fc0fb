"""User snapshots equal a slow twin that reads the whole past at every midnight."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.snapshot_state import pairs
from beam_jobs.user_snapshots import DAY_SECONDS, Events, UserRows, UserState, snapshots

NUM_USERS, NUM_ITEMS, START = 4, 5, 17_000


class Event(NamedTuple):
    seconds: int
    user: int
    item: int
    value: float


# Four moments a day, midnight and the last second among them: many baskets share a second.
MOMENTS = st.builds(
    lambda day, second: (START + day) * DAY_SECONDS + second,
    st.integers(0, 11),
    st.sampled_from([0, 1, 43_200, DAY_SECONDS - 1]),
)
EVENTS = st.lists(
    st.builds(
        Event,
        MOMENTS,
        st.integers(0, NUM_USERS - 1),
        st.integers(0, NUM_ITEMS - 1),
        st.sampled_from([0.0, 0.25, 1.5, 8.0]),
    ),
    max_size=40,
).map(lambda events: sorted(events, key=lambda event: event.seconds))
RUNS = st.fixed_dictionaries(
    {
        "first": st.integers(-1, 6),
        "num_days": st.integers(0, 8),
        "history_length": st.integers(1, 4),
        "refresh": st.lists(st.integers(0, 2**40), min_size=NUM_USERS, max_size=NUM_USERS),
        "refresh_days": st.integers(1, 5),
    }
)


def arrays(events: list[Event]) -> Events:
    seconds, users, items, values = zip(*events, strict=True) if events else ((), (), (), ())
    ints = [np.array(column, dtype=np.int64) for column in (users, items, seconds)]
    return Events(*ints, np.array(values, dtype=np.float64))


def rows_of(events: list[Event], run: dict[str, Any]) -> list[UserRows]:
    """Rows of a run from before the first event, of which those from `first` on are wanted."""
    first = START + run["first"]
    end = first + run["num_days"]
    used = [event for event in events if event.seconds < end * DAY_SECONDS]
    state = UserState.empty(NUM_USERS, run["history_length"], {})
    return rows_from(state, used, min(START, first), end, run | {"rows_from": first})


def rows_from(state: UserState, events: list[Event], first: int, end: int, run: dict[str, Any]) -> list[UserRows]:
    """Rows of a run in which everybody is new; the state is carried on."""
    used = arrays(events)
    return list(
        snapshots(
            state,
            used,
            pairs(used).first_meeting(len(events)),
            first_day=first,
            end_day=end,
            rows_from=run["rows_from"],
            is_new=np.ones(NUM_USERS, bool),
            refresh=np.array(run["refresh"]),
            refresh_days=run["refresh_days"],
        )
    )


def known(events: list[Event], user: int, moment: int, history_length: int) -> dict[str, Any]:
    past = [event for event in events if event.user == user and event.seconds < moment]
    latest: dict[int, int] = {}
    for event in reversed(past):
        latest.setdefault(event.item, event.seconds)
    history = list(latest.items())[:history_length]
    padding = [-1] * (history_length - len(history))
    return {
        "num_events": len(past),
        "num_items": len({event.item for event in past}),
        "num_days": len({event.seconds // DAY_SECONDS for event in past}),
        "value": sum((Fraction(event.value) for event in past), Fraction(0)),
        "last_seconds": past[-1].seconds if past else 0,
        "history": [item for item, _ in history] + padding,
        "history_seconds": [seconds for _, seconds in history] + padding,
    }


@given(EVENTS, RUNS)
def test_each_row_is_what_was_known_at_its_midnight(events: list[Event], run: dict[str, Any]) -> None:
    for rows in rows_of(events, run):
        for place, user in enumerate(rows.user):
            expected = known(events, user, rows.moment, run["history_length"])
            assert {name: getattr(rows, name)[place].tolist() for name in expected} == expected


@given(EVENTS, RUNS)
def test_rows_are_of_who_was_active_and_who_is_due(events: list[Event], run: dict[str, Any]) -> None:
    made = {rows.moment // DAY_SECONDS: rows for rows in rows_of(events, run)}
    first = START + run["first"]
    begin = min(START, first)
    for day in range(max(first, begin + 1), first + run["num_days"] + 1):
        active = {event.user for event in events if event.seconds // DAY_SECONDS == day - 1}
        due = {user for user in range(NUM_USERS) if (day + run["refresh"][user]) % run["refresh_days"] == 0}
        assert made[day].user.tolist() == sorted(active | due)
    if first > begin:
        assert min(made, default=first) >= first


@given(EVENTS, RUNS)
def test_every_user_has_a_row_within_the_refresh_days(events: list[Event], run: dict[str, Any]) -> None:
    first = START + run["first"]
    newest = np.full(NUM_USERS, min(START, first) - run["refresh_days"])
    for rows in rows_of(events, run):
        day = rows.moment // DAY_SECONDS
        newest[rows.user] = day
        if day >= first + run["refresh_days"]:
            assert (day - newest).max() < run["refresh_days"]


@given(EVENTS, RUNS, st.integers(0, 8))
def test_a_run_from_the_state_of_a_midnight_gives_the_rows_of_one_run(
    events: list[Event], run: dict[str, Any], cut: int
) -> None:
    cut, end = START + cut, START + 12
    before = [event for event in events if event.seconds < cut * DAY_SECONDS]
    run = run | {"rows_from": START + run["first"]}
    once, twice = (UserState.empty(NUM_USERS, run["history_length"], {}) for _ in range(2))
    whole = rows_from(once, events, START, end, run)
    parts = rows_from(twice, before, START, cut, run)
    used, met = arrays(events[len(before) :]), pairs(arrays(before))
    parts += snapshots(
        twice,
        used,
        pairs(used, met).first_meeting(len(used.user)),
        first_day=cut,
        end_day=end,
        rows_from=run["rows_from"],
        is_new=np.zeros(NUM_USERS, bool),
        refresh=np.array(run["refresh"]),
        refresh_days=run["refresh_days"],
    )
    assert [rows.moment for rows in parts] == [rows.moment for rows in whole]
    for part, rows in zip([*parts, twice], [*whole, once], strict=True):
        for name, values in vars(rows).items():
            np.testing.assert_array_equal(getattr(part, name), values)


def test_a_new_user_has_the_row_of_the_latest_refresh_before_the_run() -> None:
    state = UserState.empty(3, 2, {})
    made = list(
        snapshots(
            state,
            arrays([]),
            np.zeros(0, np.int64),
            first_day=START,
            end_day=START,
            rows_from=START - 1,
            is_new=np.array([True, False, True]),
            # START is 17,000 = 2 modulo 3: user 0 was refreshed two days ago, user 2 on the very midnight.
            refresh=np.array([0, 0, 1]),
            refresh_days=3,
        )
    )
    assert [(rows.user.tolist(), rows.moment // DAY_SECONDS - START) for rows in made] == [([0], -2), ([2], 0)]


def test_a_basket_is_remembered_last_item_first() -> None:
    noon = START * DAY_SECONDS + 43_200
    basket = [Event(noon, 0, item, 1.0) for item in (3, 1, 4, 1)]
    run = {"first": 0, "num_days": 1, "history_length": 4, "refresh": [0] * NUM_USERS, "refresh_days": 1}
    after = rows_of(basket, run)[-1]
    assert after.history[0].tolist() == [1, 4, 3, -1]
    assert after.history_seconds[0].tolist() == [noon, noon, noon, -1]
    assert (after.num_events[0], after.num_items[0], after.num_days[0], after.value[0]) == (4, 3, 1, 4.0)


def test_an_item_bought_again_moves_to_the_front_with_its_latest_moment() -> None:
    midnight = START * DAY_SECONDS
    events = [Event(midnight + second, 0, item, 0.0) for second, item in ((1, 0), (2, 1), (3, 2))]
    again = Event(midnight + DAY_SECONDS, 0, 0, 0.0)  # the first moment of the next day
    run = {"first": 1, "num_days": 1, "history_length": 3, "refresh": [0] * NUM_USERS, "refresh_days": 1}
    before, after = rows_of([*events, again], run)[-2:]
    assert before.history[0].tolist() == [2, 1, 0]
    assert after.history[0].tolist() == [0, 2, 1]
    assert after.history_seconds[0].tolist() == [midnight + DAY_SECONDS, midnight + 3, midnight + 2]


@given(EVENTS)
def test_a_pair_meets_for_the_first_time_once(events: list[Event]) -> None:
    met = [(event.user, event.item) for event in events]
    expected = [int(pair not in met[:place]) for place, pair in enumerate(met)]
    found = pairs(arrays(events)).first_meeting(len(events))
    assert found.dtype == np.int64
    assert found.tolist() == expected


@given(EVENTS)
def test_pairs_are_all_who_have_met_with_their_first_and_latest_event(events: list[Event]) -> None:
    seconds: dict[tuple[int, int], list[int]] = {}
    for event in events:
        seconds.setdefault((event.user, event.item), []).append(event.seconds)
    expected = [(*pair, len(when), min(when), max(when)) for pair, when in sorted(seconds.items())]
    met = pairs(arrays(events))
    columns = (met.user, met.item, met.num_events, met.first_seconds, met.last_seconds)
    assert [tuple(int(value) for value in row) for row in zip(*columns, strict=True)] == expected


@given(EVENTS, st.integers(0, 40))
def test_pairs_that_met_before_are_counted_on(events: list[Event], cut: int) -> None:
    late = arrays(events[cut:])
    met = pairs(late, pairs(arrays(events[:cut])))
    whole = pairs(arrays(events))
    for name in ("user", "item", "num_events", "first_seconds", "last_seconds"):
        np.testing.assert_array_equal(getattr(met, name), getattr(whole, name))
    np.testing.assert_array_equal(met.first_meeting(len(late.user)), whole.first_meeting(len(events))[cut:])
