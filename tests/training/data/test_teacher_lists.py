"""Lists of a teacher: which one an example gets, what it gives the candidates, and that none has seen the example."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from artefacts.paths import RunPaths
from evaluation.leakage import LeakageError
from features.columns import number_of
from features.encoding import Encoder
from training.config import DistillationConfig, TeacherConfig
from training.data.batches import MASK, TEACHER, BatchPlan, Span, batches, load_span
from training.data.denoising import later_meetings
from training.data.teacher_lists import (
    LISTS_SCHEMA,
    TeacherLists,
    facts_of,
    folder_of,
    read_teacher_lists,
    write_lists,
)
from training.negatives.even_draws import per_row, uniform
from training.negatives.known_positives import KnownPositives
from training.negatives.private import UserNegatives, listed

MONDAY, TUESDAY, FRIDAY = (dt.date(2020, 1, day) for day in (6, 7, 10))
FIRST_DAY = dt.date(2020, 1, 1)


def lists_of(
    rows: list[tuple[int, dt.date, int, float]], *, temperature: float = 1.0, denoise_above: float | None = None
) -> TeacherLists:
    """From (user row, day, item row, score)."""
    users, days, items, scores = zip(*rows, strict=True)
    numbers = np.array([number_of(day) for day in days])
    arrays = (np.array(users), numbers, np.array(items), np.array(scores, np.float64))
    return TeacherLists.of(*arrays, temperature=temperature, denoise_above=denoise_above)


def shop(**settings: Any) -> TeacherLists:
    """User 1 has lists of Monday and Friday, user 3 one of Tuesday."""
    return lists_of(
        [
            (3, TUESDAY, 5, 0.0), (3, TUESDAY, 2, 10.0),
            (1, FRIDAY, 7, 1.0), (1, FRIDAY, 4, 3.0), (1, FRIDAY, 6, 2.0), (1, FRIDAY, 9, 2.0),
            (1, MONDAY, 4, 5.0), (1, MONDAY, 8, 1.0),
        ],
        **settings,
    )  # fmt: skip


def table(*rows: tuple[str, str, float]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(LISTS_SCHEMA.names, row, strict=True)) for row in rows], schema=LISTS_SCHEMA)


def test_an_example_gets_its_users_latest_list_of_its_own_day_or_earlier() -> None:
    lists = shop()
    assert lists.user_rows.tolist() == [1, 1, 3]
    assert lists.rows_of(MONDAY, np.array([0, 1, 2, 3])).tolist() == [-1, 0, -1, -1]
    assert lists.rows_of(FRIDAY - dt.timedelta(days=1), np.array([1, 3, 1])).tolist() == [0, 2, 0]
    assert lists.rows_of(FRIDAY, np.array([1, 3])).tolist() == [1, 2]
    assert lists.rows_of(MONDAY - dt.timedelta(days=1), np.array([1])).tolist() == [-1]


def test_scores_are_in_deviations_of_their_list_by_the_temperature() -> None:
    # Mean 2, squares 1 + 1 of four: a deviation of sqrt(1 / 2).
    deviation = np.sqrt(0.5)
    lists = shop(temperature=0.5)
    found = lists.scores_of(np.array([1]), np.array([4, 6, 7, 8]))
    np.testing.assert_allclose(found, np.array([1, 0, -1, -1]) / deviation / 0.5, rtol=1e-6)
    assert lists_of([(1, MONDAY, 2, 3.0), (1, MONDAY, 4, 3.0)]).scores.tolist() == [0, 0]
    assert lists.scores_of(np.array([-1]), np.array([4])).tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_candidates_are_those_of_single_items_at_the_columns_that_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        (user, day, int(item), float(rng.normal()))
        for user in range(1, 6)
        for day in (MONDAY, FRIDAY)
        for item in rng.permutation(np.arange(1, 20))[:6]
    ]
    lists, candidates = lists_of(rows), rng.integers(0, 25, 30)
    list_rows = np.array([3, -1, 0, 9, 3])
    found = lists.scores_of_candidates(list_rows, candidates)
    for row, column in np.ndindex(found.shape):
        is_counted = row == column or candidates[column] not in candidates[:column]
        expected = lists.scores_of(list_rows[row], candidates[column])
        lowest = lists.lowest[list_rows[row]] if list_rows[row] >= 0 else 0
        assert found[row, column] == (expected if is_counted else lowest)


def test_what_is_above_the_quantile_of_its_list_is_taken_for_a_positive() -> None:
    items = np.array([4, 6, 9, 7, 8])
    above = {share: shop(denoise_above=share).are_above(np.array([1]), items).tolist() for share in (0.0, 0.5, 0.9)}
    # Of 1, 2, 2, 3 the quantiles are at places 0, 1 and 2.
    assert above == {0.0: [True, True, True, False, False], **{share: [True, *[False] * 4] for share in (0.5, 0.9)}}
    assert not shop().are_above(np.array([1]), items).any()
    assert not shop(denoise_above=0.0).are_above(np.array([-1]), items).any()


def test_lists_are_read_as_they_were_written_for_the_days_of_the_examples(tmp_path: Path, encoder: Encoder) -> None:
    for day, score in ((FIRST_DAY, 1.0), (MONDAY, 2.0), (FRIDAY, 3.0)):
        lists = table(("u2", "i4", score), ("u2", "i1", 0.0), ("u2", "unknown", 1.0), ("nobody", "i1", 1.0))
        write_lists(tmp_path / f"{day}.parquet", lists, known_until=day, made_of="those events")
    assert facts_of(tmp_path / f"{MONDAY}.parquet") == {"known_until": str(MONDAY), "made_of": "those events"}
    assert facts_of(tmp_path / "2020-01-07.parquet") == {}
    found = read_teacher_lists(tmp_path, encoder, [TUESDAY, FRIDAY], temperature=1.0, denoise_above=None)
    # Of the lists before the examples the last, and those of the examples' days.
    assert found.days.tolist() == [number_of(MONDAY), number_of(FRIDAY)]
    [user], items = encoder.user_ids.rows(["u2"]), encoder.item_ids.rows(["i1", "i4"])
    assert (found.user_rows.tolist(), found.items.tolist()) == ([user, user], [*items, *items])
    assert found.scores.tolist() == [-1, 1, -1, 1]


def test_a_teacher_that_has_seen_the_examples_is_refused(tmp_path: Path, encoder: Encoder) -> None:
    def read(*days: dt.date) -> TeacherLists:
        return read_teacher_lists(tmp_path, encoder, days, temperature=1.0, denoise_above=None)

    with pytest.raises(ValueError, match=r"no lists of training\.distillation\.teacher; make them with"):
        read(MONDAY)
    write_lists(tmp_path / f"{TUESDAY}.parquet", table(("u1", "i1", 1.0)), known_until=TUESDAY)
    with pytest.raises(
        LeakageError, match="knows events up to 2020-01-07, and the examples are of 2020-01-05 to 2020-"
    ):
        read(MONDAY - dt.timedelta(days=1), MONDAY)
    assert len(read(MONDAY, TUESDAY).keys) == 1
    write_lists(tmp_path / f"{TUESDAY}.parquet", table(("u1", "i1", 1.0)), known_until=FRIDAY)
    with pytest.raises(
        LeakageError, match=r"01-07\.parquet: its teacher knows events up to 2020-01-10, expected up to"
    ):
        read(MONDAY, TUESDAY)


def test_fits_share_the_lists_that_are_made_alike() -> None:
    arm, other = (RunPaths(Path("runs/shop"), MONDAY, name) for name in ("a", None))
    base = DistillationConfig()
    assert folder_of(arm, base) == folder_of(other, DistillationConfig(loss="rank", weight=3.0, temperature=0.1))
    assert folder_of(arm, base) == folder_of(other, TeacherConfig())
    assert folder_of(arm, base).name.startswith("ease-")
    changed = [{"lists": 7}, {"refresh_days": 7}, {"teacher": "item_knn"}, {"teacher": Path("a.csv")}]
    folders = {folder_of(arm, DistillationConfig.model_validate(change)) for change in changed}
    assert len(folders | {folder_of(arm, base)}) == 5


def span_with(teacher: TeacherLists, folder: Path, days: list[dt.date], encoder: Encoder) -> Span:
    settings: dict[str, Any] = {"only_first": True, "user_balance": 0, "reward": "reward", "reward_power": 1.0}
    return load_span(folder / "examples", days, encoder, teacher=teacher, **settings)


def test_batches_carry_the_teachers_scores_and_mined_negatives_that_it_likes_do_not_count(
    groups_folder: Path, groups_days: list[dt.date], encoder: Encoder
) -> None:
    # From the second day on, each user's list has the items of the other group, the later ones higher.
    users = np.arange(1, 25)
    rows = [(int(user), groups_days[1], item, float(item)) for user in users for item in other_group(user, encoder)]
    teacher = lists_of(rows, denoise_above=0.5)
    span = span_with(teacher, groups_folder, groups_days, encoder)
    assert 0 < (span.list_row < 0).mean() < 0.5
    mined = UserNegatives.of(*np.array([(user, item) for user, _, item, _ in rows]).T, num_user_rows=25)
    plan = BatchPlan(
        batch_size=16, in_batch=True, queue_size=4, sources=[uniform(num=7), listed(mined, num=3), per_row(num=2)],
        known=KnownPositives.of(np.array([1]), np.array([1]), num_user_rows=25), num_item_rows=25, catalogue_size=24,
        correct=True, frequency=None, teacher=teacher, num_mined=3,
    )  # fmt: skip
    without = BatchPlan(**{**vars(plan), "teacher": None, "num_mined": 0})
    num_dropped = num_mined = 0
    for batch, plain in zip(batches(span, plan, seed=[1]), batches(span, without, seed=[1]), strict=True):
        assert batch[TEACHER].shape == batch[MASK].shape
        assert {name for name in batch if not np.array_equal(batch[name], plain.get(name))} == {MASK, TEACHER}
        num_rows = len(batch["weight"])
        private = batch["item/item_id"][-5 * num_rows :].reshape(num_rows, 5)
        changed = batch[MASK] != plain[MASK]
        assert not changed[:, :-5].any()
        assert not changed[:, -2:].any()
        lists = teacher_rows(batch, span, teacher)
        for row, list_row in enumerate(lists):
            expected = [teacher.scores_of(list_row, item) for item in private[row]]
            there = ~plain[MASK][row, -5:]
            np.testing.assert_array_equal(batch[TEACHER][row, -5:][there], np.array(expected)[there])
            likes = teacher.are_above(list_row, private[row, :3])
            np.testing.assert_array_equal(changed[row, -5:-2], likes & there[:3])
        num_dropped, num_mined = num_dropped + changed.sum(), num_mined + (~plain[MASK][:, -5:-2]).sum()
    assert 0.2 < num_dropped / num_mined < 0.5


def other_group(user: int, encoder: Encoder) -> npt.NDArray[np.int64]:
    number = int(encoder.user_ids.ids([user])[0][1:])
    names = [f"i{item + 12 * (number < 12)}" for item in range(12)]
    return encoder.item_ids.rows(names).astype(np.int64)


def teacher_rows(batch: dict[str, Any], span: Span, teacher: TeacherLists) -> list[int]:
    """The list of each row of a batch; each example of a user and an item comes once."""
    pairs = zip(span.users["user_id"][span.user_row], span.items["item_id"][span.item_row], strict=True)
    lists = dict(zip(((int(user), int(item)) for user, item in pairs), span.list_row.tolist(), strict=True))
    own = zip(batch["user/user_id"], batch["item/item_id"], strict=False)
    return [lists[int(user), int(item)] for user, item in own]


def test_a_teachers_denoising_is_checked_by_what_users_met_later() -> None:
    day = 86_400
    # Above their medians (the lower of two): 4 of Monday's list of user 1; 4 of Friday's; 2 of user 3's.
    teacher = shop(denoise_above=0.5)
    mined = UserNegatives.of(np.array([1, 1, 3, 3, 2]), np.array([4, 9, 5, 2, 4]), num_user_rows=5)
    # User 1 met 4 on Wednesday and 6 on Friday; user 3 met 2 on Monday, before its list, and 5 later.
    users, items = np.array([1, 1, 3, 3]), np.array([4, 6, 2, 5])
    first = np.array([number_of(MONDAY) + 2, number_of(FRIDAY), number_of(MONDAY), number_of(FRIDAY)]) * day + 7
    found = later_meetings(teacher, mined, users, items, first, num_items=10)
    # 4 and 9 at two lists of user 1, 5 and 2 at one of user 3: of six, 4 twice and 2 once.
    assert found.dropped == pytest.approx(3 / 6)
    # Of three, 4 on Monday's list alone was met from the list's day on.
    assert found.met_later == pytest.approx(1 / 3)
    # Of the five others, 6 on Friday's list, and 5 of user 3.
    assert found.of_the_rest == pytest.approx(2 / 5)
    # From the lists' days on, their users met 2, 1 and 1 of 10.
    assert found.by_chance == pytest.approx(4 / 3 / 10)
    assert str(found) == (
        "the teacher drops 50.0% of the mined negatives; of what it takes for positives, users met 33.33% later, of "
        "the rest of its lists 40.00%, of an even draw 13.33%"
    )
    nothing = np.empty(0, np.int64)
    assert later_meetings(teacher, mined, nothing, nothing, nothing, num_items=10).met_later == 0
