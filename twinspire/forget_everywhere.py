"""Forget: a person's data goes from everything below the runs of a dataset, and what cannot be patched is made again.

    tables, mined negatives, fits    without their rows, in place
    exposures                        likewise; a running server writes none of them from now on
    snapshots, examples, catalogues  removed: others' figures counted them; the next run computes them again
    online store                     their values removed, at once
    arms of comparisons              removed: the next comparison fits them again
    records of steps                 removed, but for which nights were published, so that fits start from them
    bundles                          told of; never changed, as their checksums would not hold

In this order, with what names the person last in each place: killed anywhere, the next call finds what is left. That
they are to be forgotten is written down before anything else, so that no ingestion brings them back.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from artefacts.console import held_back
from artefacts.files import replace_text
from artefacts.paths import CUTTING, RunPaths
from features import columns
from features.forgotten import Forgotten, are_of, name_any
from features.tables import forget_in_tables, without_users
from serving.bundles.retention import prune
from serving.exposures.files import day_folders, exposure_files, remove_replaced
from training.lineage import PUBLISH

# Files below `features` that name users, by a column.
OF_FEATURES = (
    "snapshots/user/*",
    "snapshots/pairs/*",
    "snapshots/state/*/user",
    "examples/*/users",
    "catalogue/*/users",
)
# What a message of a run may name people in.
TOLD_IN = ("error", "checks", "sentence", "to_do")
REMOVED = "(removed: it named somebody who is forgotten)"


@dataclass(frozen=True)
class Removed:
    """What went from one place.

    Attributes:
        where: The place, below the folder of the runs.
        num_rows: Rows that named them; fits and users where the place has a row for each.
        how: What was done, and what is left to the next run.
    """

    where: str
    num_rows: int
    how: str


def remember(paths: RunPaths, people: Sequence[str]) -> list[str]:
    """Writes down who is to be forgotten; returns those who were not on the list yet."""
    forgotten = Forgotten.load(paths.forgotten)
    new = [user_id for user_id in people if user_id not in forgotten]
    if new:
        forgotten.and_also(new).save(paths.forgotten)
    return new


def known(paths: RunPaths, people: Sequence[str]) -> set[str]:
    """Those of some people whom anything below the runs of a dataset names by their id."""
    wanted, found = set(people), set()
    files = [(path, "id") for path in paths.root.glob("models/*/encoder/user_ids.parquet")]
    files += [(path, "id") for path in paths.root.glob("arms/*/models/*/encoder/user_ids.parquet")]
    files += [(path, "id") for path in paths.bundles.glob("*/encoder/user_ids.parquet")]
    files += [(path, columns.USER_ID) for path in (*_of_features(paths), *paths.root.glob("mined/*/*.parquet"))]
    files += [(path, columns.USER_ID) for path in exposure_files(paths.exposures)]
    files += [(path, columns.USER_ID) for path in (paths.tables / "users.parquet",) if path.exists()]
    for path, name in files:
        found |= wanted.intersection(pq.read_table(path, columns=[name]).column(0).unique().to_pylist())
    for pattern in ("tables/quarantine/*.parquet", "tables.quarantine/*.parquet"):
        for path in paths.root.glob(pattern):
            raw = pq.read_table(path, columns=["raw"]).column(0)
            found |= {user_id for user_id in wanted - found if name_any({user_id}, raw).any()}
    return found


def forget(paths: RunPaths, people: Sequence[str]) -> list[Removed]:
    """Removes what the runs of a dataset have of some people; to be called under the lock, after `remember`.

    Returns:
        What went where; places that had nothing are left out.
    """
    named = set(people)
    _remove_left_over(paths)
    found = [_arms(paths, named), _fits(paths, people), _mined(paths, named), _features(paths, named)]
    found += [_exposures(paths, named), _online(paths, people), _messages(paths, people)]
    rows = forget_in_tables(paths.tables, named)
    how = "rewritten without them; what a source still has of them is left out, and counted, from now on"
    found += [Removed(f"tables, {name}", number, how) for name, number in rows.items()]
    found = [removed for removed in found if removed.num_rows]
    if found:
        # Another list of who is forgotten makes records void by itself; these are of one who was on it already.
        _forget_records(paths)
    return found


def bundles_naming(paths: RunPaths, people: Sequence[str]) -> list[str]:
    """Versions of the bundles whose encoder knows one of some people, the latest day first."""
    named = set(people)
    files = sorted(paths.bundles.glob("????-??-??-*/encoder/user_ids.parquet"), reverse=True)
    found = [file for file in files if are_of(named, pq.read_table(file, columns=["id"]).column(0)).any()]
    return [file.parents[1].name for file in found]


def _arms(paths: RunPaths, people: set[str]) -> Removed:
    folder = paths.root / "arms"
    files = [(path, "id") for path in folder.glob("*/models/*/encoder/user_ids.parquet")]
    files += [(path, columns.USER_ID) for path in folder.glob("*/mined/*/*.parquet")]
    num_rows = sum(int(are_of(people, pq.read_table(path, columns=[name]).column(0)).sum()) for path, name in files)
    users = paths.tables / "users.parquet"
    is_known = users.exists() and are_of(people, pq.read_table(users, columns=[columns.USER_ID]).column(0)).any()
    if not folder.exists() or not (num_rows or is_known):
        return Removed("arms", 0, "")
    _remove(folder)
    # Their lists have a row for each user and name none.
    return Removed("arms", max(num_rows, 1), "removed; the next comparison fits them again")


def _fits(paths: RunPaths, people: Sequence[str]) -> Removed:
    named, cut = set(people), []
    for file in sorted(paths.root.glob("models/????-??-??/encoder/user_ids.parquet")):
        model = file.parents[1]
        is_known = are_of(named, pq.read_table(file, columns=["id"]).column(0)).any()
        if is_known or (model / CUTTING).exists():
            # TensorFlow writes about the machine when it is imported.
            with held_back():
                from training.forget_fits import forget_in_fit
            cut.append(forget_in_fit(RunPaths(paths.root, dt.date.fromisoformat(model.name)), people))
    num_fits = sum(number > 0 for number in cut)
    how = f"cut out of {num_fits} fit{'' if num_fits == 1 else 's'}; a later one starts from what is left"
    return Removed("models, vectors", sum(cut), how)


def _mined(paths: RunPaths, people: set[str]) -> Removed:
    num_rows = sum(without_users(path, people) for path in sorted(paths.root.glob("mined/*/*.parquet")))
    return Removed("mined negatives", num_rows, "rewritten without them")


def _exposures(paths: RunPaths, people: set[str]) -> Removed:
    for day in day_folders(paths.exposures):
        # Of a merge that was killed: nobody reads these files, and they name people all the same.
        remove_replaced(day)
    num_rows = sum(without_users(path, people) for path in exposure_files(paths.exposures))
    return Removed("exposures", num_rows, "rewritten without them; a server logs none of theirs from now on")


def _of_features(paths: RunPaths) -> list[Path]:
    return [path for pattern in OF_FEATURES for path in sorted(paths.features.glob(f"{pattern}.parquet"))]


def _features(paths: RunPaths, people: set[str]) -> Removed:
    files = _of_features(paths)
    tables = (pq.read_table(path, columns=[columns.USER_ID]).column(0) for path in files)
    num_rows = sum(int(are_of(people, ids).sum()) for ids in tables)
    if num_rows:
        # First: what is half removed must not be taken for what it tells of.
        paths.snapshots_record.unlink(missing_ok=True)
        # Snapshots last: as long as anything names them, the next call comes here again.
        for folder in (paths.features / "catalogue", paths.examples, paths.snapshots):
            _remove(folder)
    return Removed("features", num_rows, "snapshots, examples and catalogues removed; the next run computes them again")


def _online(paths: RunPaths, people: Sequence[str]) -> Removed:
    from artefacts.console import without_chatter
    from features import online_versions
    from features.store import SETTINGS_FILE, Store, forget_online, repository

    num_users = 0
    online_versions.remove_unversioned(paths.features)
    with without_chatter():
        for version in online_versions.versions(paths.features):
            online_versions.remove_left_over(paths.features, version)
            if (repository(paths.features, version) / SETTINGS_FILE).exists():
                num_users += forget_online(Store.open(paths.features, version), people)
    return Removed(
        "online store", num_users, "their values removed from every version; a server finds nobody under their ids"
    )


def _messages(paths: RunPaths, people: Sequence[str]) -> Removed:
    """Errors and checks of earlier nights that quote a row with an id."""
    names = "|".join(re.escape(user_id) for user_id in people)
    pattern = re.compile(rf"(?<![\w.-])(?:{names})(?![\w-])")
    count = 0
    for path in sorted([*paths.root.glob("nights/*.log"), *paths.root.glob("gates/*.json")]):
        text = path.read_text(encoding="utf-8")
        if pattern.search(text) is None:
            continue
        if path.suffix == ".log":
            lines = [_told_less(line, pattern, indent=None) for line in text.splitlines()]
            changed = "\n".join(lines) + "\n"
        else:
            changed = _told_less(text, pattern, indent=2) + "\n"
        if changed != text:
            replace_text(path, changed)
            count += changed.count(REMOVED) - text.count(REMOVED)
    return Removed("logs and reports of nights", count, "messages that named them removed")


def _told_less(text: str, pattern: re.Pattern[str], *, indent: int | None) -> str:
    try:
        plain = json.loads(text)
    except ValueError:
        # A half line of a run that was killed.
        return "" if pattern.search(text) else text
    changed = _without_messages(plain, pattern, told=False)
    return text.rstrip("\n") if changed == plain else json.dumps(changed, indent=indent, ensure_ascii=False)


def _without_messages(value: Any, pattern: re.Pattern[str], *, told: bool) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_messages(part, pattern, told=name in TOLD_IN and isinstance(part, str))
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [_without_messages(part, pattern, told=False) for part in value]
    return REMOVED if told and pattern.search(value) else value


def _remove_left_over(paths: RunPaths) -> None:
    """Removes what killed runs left half written; bundles have a retention of their own for that."""
    for path in [*paths.root.rglob(".*.tmp"), *paths.root.rglob(".*.old")]:
        if path.relative_to(paths.root).parts[0] in ("arms", "bundles", ".tables.old"):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if paths.bundles.is_dir():
        prune(paths.bundles, keep=None, max_age_days=None, now=dt.datetime.max.replace(tzinfo=dt.UTC))


def _forget_records(paths: RunPaths) -> None:
    """Removes the records of all steps but of publishing: a later night starts from a published one."""
    for path in paths.root.glob("steps/**/*.json"):
        if path.stem != PUBLISH:
            path.unlink()


def _remove(folder: Path) -> None:
    """Removes a folder, which has another name from the first file on."""
    if not folder.exists():
        return
    gone = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)
