"""The command `deny` keeps the file that the server reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from twinspire.cli import app

CONFIG = """
name: stall
as_of: 2024-01-09
ingest: {source: {kind: tables, events: {path: orders.csv}}}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder of the runs, with a bundle of two items."""
    (tmp_path / "stall.yaml").write_text(CONFIG)
    current = tmp_path / "runs" / "stall" / "bundles" / "current"
    current.mkdir(parents=True)
    pq.write_table(pa.table({"item_id": ["a", "b"]}), current / "items.parquet")
    return tmp_path / "runs" / "stall"


def ask(root: Path, *arguments: str) -> Any:
    flags = ["--config", str(root.parents[1] / "stall.yaml"), "--runs", str(root.parent)]
    return CliRunner().invoke(app, ["deny", *arguments, *flags])


def test_items_are_denied_listed_and_allowed_again(root: Path) -> None:
    found = ask(root, "--item", "a", "--item", "typo", "--item", "a")
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout.splitlines() == [
        "a is denied; a running server follows within a second",
        "typo is denied; a running server follows within a second; the published bundle has no such item: check the "
        "spelling",
    ]
    assert (root / "denied_items.txt").read_text().splitlines()[1:] == ["a", "typo"]
    assert ask(root, "--list").stdout.splitlines() == ["a", "typo   (not in the published bundle)"]
    rows = [{"item_id": "a", "in_bundle": True}, {"item_id": "typo", "in_bundle": False}]
    assert json.loads(ask(root, "--list", "--json").stdout) == rows
    assert ask(root, "--item", "a", "--undo").stdout == "a is allowed again\n"
    assert ask(root, "--list").stdout.splitlines() == ["typo   (not in the published bundle)"]
    ask(root, "--item", "typo", "--undo")
    assert ask(root, "--list").stdout == "nothing is denied\n"


@pytest.mark.parametrize(("name", "written"), [(" i1", "i1"), ("12.0", "12"), ("i #1", "i #1"), ("#1", "#1")])
def test_every_id_that_ingestion_accepts_is_denied_and_allowed_again(root: Path, name: str, written: str) -> None:
    assert ask(root, "--item", name).exit_code == 0
    assert json.loads(ask(root, "--list", "--json").stdout) == [{"item_id": written, "in_bundle": False}]
    assert ask(root, "--item", written, "--undo").stdout.startswith(f"{written} is allowed again")
    assert ask(root, "--list").stdout == "nothing is denied\n"


def test_comments_and_the_order_of_a_file_kept_by_hand_stay(root: Path) -> None:
    (root / "denied_items.txt").write_text("# recalled\nb # on Monday\n\n# law\na\n")
    ask(root, "--item", "b", "--item", "c")
    assert (root / "denied_items.txt").read_text() == "# recalled\nb # on Monday\n\n# law\na\nc\n"
    ask(root, "--item", "b", "--undo")
    assert (root / "denied_items.txt").read_text() == "# recalled\n\n# law\na\nc\n"
    assert sorted(path.name for path in root.iterdir()) == ["bundles", "denied_items.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --item ID, with --undo to allow it again, or --list"),
        (["--undo"], "give either --item ID"),
        (["--list", "--undo"], "give either --item ID"),
        (["--list", "--item", "a"], "give either --item ID"),
        (["--item", "a\nb"], r"'a\nb' is no id: expected 1 to 256 characters without line breaks"),
        (["--item", ""], "'' is no id"),
    ],
)
def test_invalid_arguments_are_reported_and_change_nothing(root: Path, arguments: list[str], message: str) -> None:
    found = ask(root, *arguments)
    assert found.exit_code == 1
    assert message in found.stderr
    assert not (root / "denied_items.txt").exists()
