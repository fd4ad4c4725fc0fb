"""The file of denied items takes effect at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.forgotten import ids_in, line_of
from features.ids import IdMap, normal_id
from serving.bundles.bundle import Bundle
from serving.recommender import Recommender
from serving.retrieval.eligible import LOOK_SECONDS, DeniedItems, DenyList

ITEMS = IdMap(["a", "b", "c", "d"])


class Clock:
    """A clock with the time that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "denied_items.txt"


def replace(file: Path, text: str) -> None:
    """Writes as the command does: another file takes the name."""
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


def test_a_change_is_seen_after_a_second_and_not_before(file: Path, clock: Clock) -> None:
    denied = DeniedItems(DenyList(file, clock=clock), ITEMS)
    assert denied.rows().tolist() == []
    replace(file, "c\n")
    clock.seconds += LOOK_SECONDS / 2
    assert denied.rows().tolist() == []
    clock.seconds += LOOK_SECONDS / 2
    assert denied.rows().tolist() == [2]
    replace(file, "# all of them\nd\na  # recalled\nd\n\n")
    clock.seconds += LOOK_SECONDS
    rows = denied.rows()
    assert (rows.tolist(), str(rows.dtype)) == ([0, 3], "int32")
    file.unlink()
    clock.seconds += LOOK_SECONDS
    assert denied.rows().tolist() == []


def test_a_file_that_has_not_changed_is_not_read_again(
    file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(file, "c\n")
    denied = DeniedItems(DenyList(file, clock=clock), ITEMS)
    rows = denied.rows()
    monkeypatch.setattr(Path, "read_text", None)
    for _ in range(3):
        clock.seconds += LOOK_SECONDS
        assert denied.rows() is rows


def test_unknown_ids_are_counted_in_the_log_once(file: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    replace(file, "c\nx\ny\n")
    denied = DeniedItems(DenyList(file, clock=clock), ITEMS)
    for _ in range(3):
        assert denied.rows().tolist() == [2]
        clock.seconds += LOOK_SECONDS
    assert [record.getMessage() for record in caplog.records] == [f"{file}: 1 items denied, 2 more not in this bundle"]
    assert caplog.records[0].levelno == logging.WARNING


def test_an_unreadable_file_leaves_the_denied_items_as_they_were(
    file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    replace(file, "c\n")
    denied = DeniedItems(DenyList(file, clock=clock), ITEMS)
    denied.rows()
    file.write_bytes(b"\xff\xfe")
    clock.seconds += LOOK_SECONDS
    assert denied.rows().tolist() == [2]
    assert "cannot be read" in caplog.records[-1].getMessage()
    replace(file, "b\n")
    clock.seconds += LOOK_SECONDS
    assert denied.rows().tolist() == [1]


def test_a_new_bundle_denies_what_the_last_did_while_the_file_cannot_be_read(
    file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    replace(file, "c\n")
    denied = DenyList(file, clock=clock)
    assert (DeniedItems(denied, ITEMS).rows().tolist(), denied.problem) == ([2], None)
    file.unlink()
    file.mkdir()
    for _ in range(3):
        clock.seconds += LOOK_SECONDS
        # Another catalogue has the item in another row.
        assert DeniedItems(denied, IdMap(["z", "c"])).rows().tolist() == [1]
    assert denied.problem == "cannot be read (Is a directory)"
    assert sum("cannot be read" in record.getMessage() for record in caplog.records) == 1
    file.rmdir()
    replace(file, "a\n")
    clock.seconds += LOOK_SECONDS
    assert (DeniedItems(denied, ITEMS).rows().tolist(), denied.problem) == ([0], None)


def test_without_its_folder_it_is_not_known_what_is_denied(file: Path, clock: Clock) -> None:
    folder = file.parent / "runs"
    folder.mkdir()
    (folder / "denied.txt").write_text("c\n")
    denied = DenyList(folder / "denied.txt", clock=clock)
    folder.rename(folder.with_name("away"))
    clock.seconds += LOOK_SECONDS
    denied.look()
    assert (denied.item_ids, denied.problem) == (("c",), "cannot be read (No such file or directory)")


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_nothing_is_opened_while_it_is_not_known_what_is_denied(file: Path, content: bytes | None) -> None:
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"denied_items.txt: cannot be read .*; nothing is answered while .* Make it"):
        DenyList(file)


@pytest.mark.parametrize("retriever", ["two_tower", "repeat", "popularity", "fused"])
@pytest.mark.parametrize("user_id", ["u1", "stranger"])
def test_the_recommender_follows_between_two_requests(
    bundle: Bundle,
    recommender: Recommender,
    read_users: Callable[[list[str]], pa.Table],
    file: Path,
    clock: Clock,
    retriever: str,
    user_id: str,
) -> None:
    denied = DeniedItems(DenyList(file, clock=clock), bundle.encoder.item_ids)
    following = Recommender(
        bundle, read_users, retrievers=recommender.retrievers, default_retriever="fused", denied=denied
    )

    def answered() -> list[str]:
        answer = following.recommend([user_id], k=3, retriever=retriever).answers[0]
        return [item["item_id"] for item in answer.items]

    before = answered()
    replace(file, f"{before[0]}\n{before[1]}\n")
    clock.seconds += LOOK_SECONDS
    after = answered()
    assert not {before[0], before[1]} & set(after)
    assert before[2] in after
    # Of the three that u1 bought, one is left to repeat; of all others there are enough.
    assert len(after) == (1 if (retriever, user_id) == ("repeat", "u1") else 3)
    file.unlink()
    clock.seconds += LOOK_SECONDS
    assert answered() == before


def test_popular_items_replace_a_users_purchases_when_all_are_denied(
    bundle: Bundle,
    recommender: Recommender,
    read_users: Callable[[list[str]], pa.Table],
    file: Path,
) -> None:
    replace(file, "i0\ni1\ni2\n")
    denied = DeniedItems(DenyList(file), bundle.encoder.item_ids)
    asked = Recommender(
        bundle, read_users, retrievers=recommender.retrievers, default_retriever="repeat", denied=denied
    )
    answer = asked.recommend(["u1"], k=40).answers[0]
    assert answer.fallback == "popularity"
    assert len(answer.items) == len(bundle.encoder.item_ids) - 1 - 3
    assert not {"i0", "i1", "i2"} & {item["item_id"] for item in answer.items}


def test_lines_name_ids_and_comments_name_none() -> None:
    text = '# head\n\n a \nb#1\nc # why\nd e\n#f\n12.0\n"a #1" # law\n"open\n'
    assert ids_in(text) == ["a", "b#1", "c", "d e", "12", "a #1", '"open']


@given(st.text())
def test_each_id_has_a_line_that_is_read_back(name: str) -> None:
    try:
        expected = normal_id(name)
    except ValueError:
        with pytest.raises(ValueError, match="is no id"):
            line_of(name)
    else:
        assert ids_in(f"# head\n{line_of(name)}\nother\n") == [expected, "other"]


@pytest.mark.parametrize("name", ["#a", "a #b", '"a"', " i1", "\u00a0i1", "12.0"])
def test_ids_that_a_line_would_change_are_denied_too(name: str) -> None:
    assert ids_in(line_of(name)) == [normal_id(name)]
