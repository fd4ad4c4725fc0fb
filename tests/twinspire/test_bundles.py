"""The commands that list, compare, publish and remove bundles."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import Result
from typer.testing import CliRunner

from artefacts.config import pick
from artefacts.paths import FILLED, RunPaths
from features.encoding import Encoder
from features.ids import IdMap
from features.store import Store, StoreSettings
from serving.bundles.bundle import Bundle
from serving.bundles.folder import list_bundles, published, read
from serving.bundles.manifest import Facts
from serving.bundles.publish import Parts, publish, write
from serving.config import PublishSections
from serving.steps import publish_bundle
from tests import forking
from twinspire.bundles import bundles as commands
from twinspire.load_config import dump, load

# The small bundle of the tests of serving.
SERVING = runpy.run_path(str(Path(__file__).parents[1] / "serving" / "conftest.py"))
encoder, exported, item_vectors, purchases, parts, facts = (
    SERVING[name] for name in ("encoder", "exported", "item_vectors", "purchases", "parts", "facts")
)
NOW = dt.datetime(2017, 12, 5, 6, tzinfo=dt.UTC)
CONFIG = "name: small\nas_of: 2017-12-01\ningest: {source: {kind: complete_journey}}\n"


@pytest.fixture(scope="module")
def three_days(
    parts: Parts, facts: Facts, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """Runs of three days, each published at six; the third has one other item, another name and longer training."""
    root = tmp_path_factory.mktemp("three_days")
    (root / "small.yaml").write_text(CONFIG)
    ids = encoder.item_ids.ids(range(1, 41))
    items = parts.items.set_column(0, "item_id", pa.array([*ids[:-1], "i99"]))
    versions = []
    for number in range(1, 4):
        overrides, made = ["training.epochs=2"], parts
        if number == 3:
            overrides = ["training.epochs=5"]
            other = dataclasses.replace(encoder, item_ids=IdMap([*ids[:-1], "i99"]))
            metrics = {"two_tower": {"recall_at_100": 0.375, "recall_at_10": 0.125}}
            made = dataclasses.replace(parts, encoder=other, items=items, metrics=metrics)
        config = load(root / "small.yaml", [*overrides, f"as_of=2017-12-0{number}"])
        made = dataclasses.replace(made, config_yaml=dump(config))
        day, created = dt.date(2017, 12, number), dt.datetime(2017, 12, number, 5, tzinfo=dt.UTC)
        known = {"as_of": day, "created": created, "configuration_digest": config.digest()}
        folder = RunPaths(root / "runs" / "small", day).bundles
        versions.append(write(folder, made, facts.model_copy(update=known)))
        publish(folder, versions[-1], moment=created + dt.timedelta(hours=1), reason="bundle")
    settings = StoreSettings("small", encoder.schema, {"user": 7, "item": 28}, "sqlite", "")
    Store(folder.parent / "features", settings, facts.features_version)
    (folder.parent / "features" / "online" / facts.features_version / FILLED).write_text("2017-12-01")
    return root, versions


@dataclasses.dataclass(frozen=True)
class Shop:
    """A copy of the three days, to be changed."""

    root: Path
    versions: list[str]

    @property
    def folder(self) -> Path:
        return self.root / "runs" / "small" / "bundles"

    def do(self, *arguments: str) -> Result:
        flags = ["--config", str(self.root / "small.yaml"), "--runs", str(self.root / "runs")]
        return CliRunner().invoke(commands, [*arguments, *flags])

    def done(self, *arguments: str) -> str:
        """What a command prints that ends well."""
        ran = self.do(*arguments)
        assert (ran.exit_code, ran.stderr) == (0, "")
        return ran.stdout

    def refused(self, *arguments: str) -> str:
        """The one line of standard error of a command that ends with 1."""
        ran = self.do(*arguments)
        assert (ran.exit_code, ran.stdout) == (1, "")
        [message] = ran.stderr.splitlines()
        assert message.startswith("error: ")
        return message


@pytest.fixture
def shop(three_days: tuple[Path, list[str]], tmp_path: Path) -> Shop:
    root, versions = three_days
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    return Shop(tmp_path / "copy", versions)


def test_the_list_has_a_line_for_each_bundle_the_latest_first(shop: Shop) -> None:
    lines = shop.done("list").splitlines()
    assert lines[0].split() == ["version", "day", "created", "(UTC)", "size", "items", "recall@10", "recall@100"]
    rows = [line.split() for line in lines[2:]]
    assert [row[0] for row in rows] == shop.versions[::-1]
    assert rows[0][1:4] == ["2017-12-03", "2017-12-03", "05:00"]
    assert rows[0][6:] == ["40", "0.1250", "0.3750", "published"]
    assert rows[1][6:] == ["40", "-", "0.2500", "before", "it"]
    assert rows[2][6:] == ["40", "-", "0.2500"]


def test_the_list_is_available_as_json(shop: Shop) -> None:
    rows = json.loads(shop.done("list", "--json"))
    assert [row["version"] for row in rows] == shop.versions[::-1]
    assert [row["published"] for row in rows] == [True, False, False]
    assert [row["rollback_target"] for row in rows] == [False, True, False]
    assert rows[0]["created"] == "2017-12-03T05:00:00+00:00"
    assert rows[0]["recall"] == {"two_tower.recall_at_100": 0.375, "two_tower.recall_at_10": 0.125}
    assert rows[0]["size_bytes"] == sum(file.stat().st_size for file in (shop.folder / "current").rglob("*.*"))


def test_a_bundle_that_cannot_be_read_is_listed_with_its_problem(shop: Shop) -> None:
    manifest = shop.folder / shop.versions[0] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 6', '"format_version": 5'))
    shown = shop.done("list")
    assert "not readable" in shown
    assert "manifest.json: format version 5, expected 6; serve it with the code that made it, or" in shown
    assert "format version 5" in shop.refused("show", "2017-12-01")


def test_a_bundle_is_shown_with_lineage_figures_and_verified_files(shop: Shop) -> None:
    shown = shop.done("show")
    for part in (
        f"{shop.versions[2]}, published",
        "every checksum as in the manifest",
        "48 events from 2017-01-01 up to, not including, 2017-12-01",
        "item: item_tower, user: user_tower",
        "commit 0f3c9a71",
        ", seed 7",
        "2017-11-30-0f3c9a71",
        "hnswlib 0.8.0",
        "two_tower.recall_at_100  0.3750",
        "recall@10  1.0000 of exact search at ef 50, over 6 users",
        "popularity.npy",
    ):
        assert part in shown
    assert shop.versions[0] in (older := shop.done("show", "2017-12-01"))
    assert "published" not in older.splitlines()[0]


def test_a_bundle_is_shown_as_json(shop: Shop) -> None:
    shown = json.loads(shop.done("show", shop.versions[1], "--json"))
    assert (shown["bundle_version"], shown["published"], shown["verified"]) == (shop.versions[1], False, True)
    assert shown["facts"]["parent"] == "2017-11-30-0f3c9a71"
    assert shown["size_bytes"] > sum(entry["size_bytes"] for entry in shown["files"].values())


def test_a_difference_names_keys_figures_and_items(shop: Shop) -> None:
    lines = [" ".join(line.split()) for line in shop.done("diff", "2017-12-02", "2017-12-03").splitlines()]
    assert lines[0] == f"{shop.versions[1]} -> {shop.versions[2]}"
    for part in (
        "training.epochs 2 -> 5 (+3)",
        "as_of 2017-12-02 -> 2017-12-03",
        "two_tower.recall_at_100 0.2500 -> 0.3750 (+0.1250)",
        "two_tower.recall_at_10 (absent) -> 0.1250",
        "added 1: i99 name 39",
        "removed 1: i39 name 39",
        "the same: schema, users",
    ):
        assert part in lines
    found = json.loads(shop.done("diff", *shop.versions[1:], "--json"))
    assert found["configuration"]["training.epochs"] == {"old": 2, "new": 5, "difference": 3}
    assert (found["items"]["num_added"], found["users"]["num_added"]) == (1, 0)


def test_a_promotion_publishes_and_is_remembered(shop: Shop) -> None:
    printed = shop.done("promote", "2017-12-01", "--now", NOW.strftime("%Y-%m-%dT%H:%M:%S"))
    assert printed == f"{shop.versions[0]} verified and published; before: {shop.versions[2]}\n"
    assert Bundle.open(shop.folder / "current").version == shop.versions[0]
    last = read(shop.folder)[-1]
    assert (last.version, last.before, last.moment, last.reason) == (
        shop.versions[0], shop.versions[2], NOW, "promote",
    )  # fmt: skip
    assert "was published already" in shop.done("promote", "2017-12-01")
    assert len(read(shop.folder)) == 4


def test_rollbacks_go_further_back_until_there_is_nothing(shop: Shop) -> None:
    for version in (shop.versions[1], shop.versions[0]):
        assert shop.done("rollback").startswith(f"{version} verified and published")
        assert published(shop.folder) == version
    assert f"has nothing published before {shop.versions[0]}" in shop.refused("rollback")
    assert published(shop.folder) == shop.versions[0]


def test_a_rollback_to_what_was_removed_is_refused(shop: Shop) -> None:
    shop.done("prune", "--keep", "1")
    assert [entry.version for entry in list_bundles(shop.folder)] == shop.versions[:0:-1]
    shop.done("rollback")
    assert f"{shop.versions[0]}, which was published before {shop.versions[1]}, was removed" in shop.refused("rollback")
    assert published(shop.folder) == shop.versions[1]


@pytest.mark.parametrize("name", ["index.hnsw", "user_tower.tflite", "items.parquet", "manifest.json"])
def test_a_truncated_bundle_is_neither_promoted_nor_rolled_back_to(shop: Shop, name: str) -> None:
    path, history = shop.folder / shop.versions[1] / name, read(shop.folder)
    path.write_bytes(path.read_bytes()[:-9])
    for asked in (["promote", shop.versions[1]], ["rollback"], ["show", shop.versions[1]]):
        assert f"{name}: " in shop.refused(*asked)
    assert f"{name}: " in shop.refused("diff", shop.versions[0], shop.versions[1])
    assert Bundle.open(shop.folder / "current").version == shop.versions[2]
    assert read(shop.folder) == history


def test_a_bundle_that_cannot_answer_as_configured_is_not_promoted(shop: Shop) -> None:
    message = shop.refused("promote", shop.versions[0], "--set", "serving.retriever=cascade")
    assert "serving.retriever is 'cascade', which needs vectors of several models" in message
    assert published(shop.folder) == shop.versions[2]


def test_pruning_lists_removed_bundles_and_their_size(shop: Shop) -> None:
    planned = shop.done("prune", "--keep", "1", "--dry-run")
    assert len(list_bundles(shop.folder)) == 3
    assert re.fullmatch(
        rf"would remove {shop.versions[0]}, \d\.\d\d MB: beyond the 1 latest\nwould remove 1 folder, [\d,]+ bytes\n",
        planned,
    )
    assert shop.done("prune", "--keep", "1") == planned.replace("would remove", "removed")
    assert [entry.version for entry in list_bundles(shop.folder)] == shop.versions[:0:-1]
    assert shop.done("prune") == "nothing to remove\n"


def test_pruning_takes_its_limits_from_the_configuration(shop: Shop) -> None:
    asked = ["prune", "--dry-run", "--now", NOW.strftime("%Y-%m-%d")]
    assert "older than 3 days" in shop.done(*asked, "--set", "bundles.max_age_days=3")
    assert "beyond the 2 latest" in shop.done(*asked, "--set", "bundles.keep=2")
    assert shop.done(*asked, "--set", "bundles.keep=2", "--keep", "3") == "nothing to remove\n"
    assert shop.done(*asked, "--older-than", "4") == "nothing to remove\n"


def test_the_daily_run_prunes_by_its_configuration(shop: Shop) -> None:
    config = load(shop.root / "small.yaml", ["bundles.max_age_days=1"])
    paths = RunPaths(shop.root / "runs" / "small", config.as_of)
    paths.bundle_name.parent.mkdir(parents=True)
    paths.bundle_name.write_text(shop.versions[2])
    sections = pick(PublishSections, config)
    outcome = publish_bundle(sections, paths, now=NOW)
    assert re.fullmatch(rf"{shop.versions[2]} published; 1 removed, \d+\.\d MB: {shop.versions[0]}", outcome)
    assert publish_bundle(sections, paths, now=NOW) == f"{shop.versions[2]} published; no bundle removed"


def test_a_bundle_that_an_arm_is_pinned_to_stays(shop: Shop) -> None:
    pin = f"serving.arms=[{{name: all, share: 1, bundle: {shop.versions[0]}}}]"
    assert shop.done("prune", "--keep", "1", "--set", pin) == "nothing to remove\n"
    assert f"removed {shop.versions[0]}" in shop.done("prune", "--keep", "1")


def test_a_bundle_that_a_server_has_open_stays(shop: Shop) -> None:
    served = Bundle.open(shop.folder / shop.versions[0])
    assert shop.done("prune", "--keep", "1") == "nothing to remove\n"
    del served
    assert f"removed {shop.versions[0]}" in shop.done("prune", "--keep", "1")


def test_online_features_go_with_the_last_bundle_that_names_them(shop: Shop, facts: Facts) -> None:
    online = shop.root / "runs" / "small" / "features" / "online"
    for version in ("2017-12-02-00000000", "2017-12-03-00000000"):
        shutil.copytree(online / facts.features_version, online / version)
        os.utime(online / version / FILLED, (int(version[8:10]),) * 2)
    planned = shop.done("prune", "--dry-run")
    assert "would remove online features 2017-12-02-00000000" in planned
    assert shop.done("prune") == planned.replace("would remove", "removed")
    # What was filled last may be of a night whose bundle is not made yet; here that is what bundles name.
    assert [path.name for path in online.iterdir()] == [facts.features_version]


def test_features_of_a_bundle_that_cannot_be_read_stay(shop: Shop, facts: Facts) -> None:
    online = shop.root / "runs" / "small" / "features" / "online"
    shutil.copytree(online / facts.features_version, online / "2017-12-03-00000000")
    os.utime(online / "2017-12-03-00000000" / FILLED, (3, 3))
    (shop.folder / shop.versions[2] / "manifest.json").write_text("[")
    assert shop.done("prune") == "nothing to remove\n"


def test_a_bundle_whose_features_are_gone_is_not_promoted(shop: Shop, facts: Facts) -> None:
    (shop.root / "runs" / "small" / "features" / "online" / facts.features_version / FILLED).unlink()
    before = published(shop.folder)
    assert f"the online features {facts.features_version} are not there" in shop.refused("promote", shop.versions[0])
    assert f"the online features {facts.features_version} are not there" in shop.refused("rollback")
    assert published(shop.folder) == before


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 6}', b'{"format_version": ' + b"[" * 100_000, b"null"],
    ids=["empty", "not text", "nested", "hollow", "nested format", "null"],
)
def test_a_damaged_manifest_is_a_line_of_the_list_and_an_error_elsewhere(shop: Shop, text: bytes) -> None:
    (shop.folder / shop.versions[0] / "manifest.json").write_bytes(text)
    assert "not readable" in shop.done("list")
    problems = {row["version"]: row["problem"] for row in json.loads(shop.done("list", "--json"))}
    assert [version for version, problem in problems.items() if problem] == [shop.versions[0]]
    for asked in (["show", shop.versions[0]], ["promote", shop.versions[0]], ["diff", *shop.versions[:2]]):
        assert "manifest.json" in shop.refused(*asked)


def test_a_manifest_that_is_no_file_and_a_folder_with_no_day_do_not_stop_the_list(shop: Shop) -> None:
    manifest = shop.folder / shop.versions[0] / "manifest.json"
    manifest.unlink()
    manifest.mkdir()
    (shop.folder / "2017-13-45-00000000").mkdir()
    assert "manifest.json: cannot be read" in shop.done("list")
    assert "manifest.json: cannot be read" in shop.refused("show", shop.versions[0])


@pytest.mark.parametrize("command", ["show", "promote"])
def test_a_wrong_version_is_an_error_with_the_existing_ones(shop: Shop, command: str) -> None:
    mistaken = shop.versions[1].replace("-12-", "-21-")
    assert f"no bundle '{mistaken}'; did you mean {shop.versions[1]}? There are" in shop.refused(command, mistaken)
    assert f"'2017' is the beginning of {', '.join(shop.versions[::-1])}; give more" in shop.refused(command, "2017")


@pytest.mark.parametrize(
    "asked", [["list"], ["show"], ["show", "2017-12-01"], ["diff", "a", "b"], ["promote", "a"], ["rollback"], ["prune"]]
)
def test_no_bundles_at_all_are_reported_in_one_line(shop: Shop, asked: list[str]) -> None:
    shutil.rmtree(shop.folder)
    assert "`twinspire bundle`" in shop.refused(*asked)


def test_the_commands_belong_to_twinspire(shop: Shop) -> None:
    flags = ["--config", shop.root / "small.yaml", "--runs", shop.root / "runs"]
    command = [sys.executable, "-m", "twinspire", "bundles", "list", "--json", *map(str, flags)]
    ran: Any = forking.run(command, cwd=shop.root, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(json.loads(ran.stdout)) == 3
