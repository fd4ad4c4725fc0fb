"""Forget: a person's data goes from everything below the runs of a dataset, and what cannot be patched is made again.

    fits                             without their rows, in place
    snapshots, examples, catalogues  removed: others' figures counted them; the next run computes them again
    online store                     their values removed, at once
    arms of comparisons              removed: the next comparison fits them again
    records of steps                 removed, but for which nights were published, so that fits start from them
    every other file that names them without them: `forget_search` looks at all
    tables                           likewise, and their manifest follows
    bundles                          told of; never changed, as their checksums would not hold

That they are to be forgotten is written down before anything else, so that no ingestion brings them back. Who is being
forgotten is kept until it is done, in a file for its owner alone: killed anywhere, the next call for anybody finishes.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from artefacts.console import held_back
from artefacts.files import json_text
from artefacts.paths import CUTTING, RunPaths
from features.forgotten import Forgotten, are_of
from features.tables import forget_in_tables
from serving.bundles.retention import prune
from serving.exposures.files import day_folders, remove_replaced
from training.lineage import PUBLISH
from twinspire.forget_search import Search

# In the folder of a dataset, while people are being forgotten: their ids.
FORGETTING = "forgetting.json"
NIGHTS = "logs and reports of nights"
# Folder -> its name for people, and what was done.
_PLACES = {
    "mined": ("mined negatives", "rewritten without them"),
    "teachers": ("lists of teachers", "rewritten without them; the next run makes them again"),
    "exposures": ("exposures", "rewritten without them; a server logs none of theirs from now on"),
    "nights": (NIGHTS, "messages that named them removed"),
    "gates": (NIGHTS, "messages that named them removed"),
}


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
    everybody = _begin(paths, people)
    forgotten = Forgotten.load(paths.forgotten)
    new = [user_id for user_id in everybody if user_id not in forgotten]
    if new:
        forgotten.and_also(new).save(paths.forgotten)
    return new


def known(paths: RunPaths, people: Sequence[str]) -> set[str]:
    """Those of some people whom anything below the runs of a dataset names by their id."""
    search = Search(frozenset(people))
    for _ in search.files(paths.root):
        pass
    return search.found


def forget(paths: RunPaths, people: Sequence[str]) -> list[Removed]:
    """Removes what the runs of a dataset have of some people; to be called under the lock, after `remember`.

    Those whom a call that was killed did not finish with are forgotten too.

    Returns:
        What went where; places that had nothing are left out.
    """
    people = _begin(paths, people)
    named = set(people)
    _remove_left_over(paths)
    if known(paths, people):
        # Another list of who is forgotten makes records void by itself; these are of one who was on it already.
        _forget_records(paths)
    found = [_arms(paths, named), _fits(paths, people), _features(paths, named), _online(paths, people)]
    found += _elsewhere(paths, named)
    rows = forget_in_tables(paths.tables, named)
    how = "rewritten without them; what a source still has of them is left out, and counted, from now on"
    found += [Removed(f"tables, {name}", number, how) for name, number in rows.items()]
    (paths.root / FORGETTING).unlink(missing_ok=True)
    return [removed for removed in found if removed.num_rows]


def bundles_naming(paths: RunPaths, people: Sequence[str]) -> list[str]:
    """Versions of the bundles that know one of some people, the latest day first."""
    search = Search(frozenset(people))
    folders = sorted(paths.bundles.glob("????-??-??-*"), reverse=True)
    return [folder.name for folder in folders if any(True for _ in search.files(paths.root, folder))]


def _begin(paths: RunPaths, people: Sequence[str]) -> list[str]:
    """Writes down who is being forgotten, with those whom an earlier call began with; returns all of them."""
    path = paths.root / FORGETTING
    begun = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    everybody = list(dict.fromkeys([*people, *begun]))
    if everybody != begun:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(json_text(everybody))
        temporary.replace(path)
    return everybody


def _arms(paths: RunPaths, people: set[str]) -> Removed:
    folder = paths.root / "arms"
    if not folder.exists():
        return Removed("arms", 0, "")
    search = Search(frozenset(people))
    num_rows = sum(erasure.num_places for _, erasure in search.files(paths.root, folder))
    # Their lists have a row for each user and name none.
    if not num_rows and search.look(paths.tables / "users.parquet", ("tables", "users.parquet")) is None:
        return Removed("arms", 0, "")
    _remove(folder)
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


def _features(paths: RunPaths, people: set[str]) -> Removed:
    search = Search(frozenset(people))
    folders = (paths.features / "catalogue", paths.examples, paths.snapshots)
    num_rows = sum(erasure.num_places for folder in folders for _, erasure in search.files(paths.root, folder))
    if num_rows:
        # First: what is half removed must not be taken for what it tells of.
        paths.snapshots_record.unlink(missing_ok=True)
        # Snapshots last: as long as anything names them, the next call comes here again.
        for folder in folders:
            _remove(folder)
    return Removed("features", num_rows, "snapshots, examples and catalogues removed; the next run computes them again")


def _elsewhere(paths: RunPaths, people: set[str]) -> list[Removed]:
    """Erases what is left but for bundles and tables, whatever it is and wherever it lies."""
    for day in day_folders(paths.exposures):
        # Of a merge that was killed: nobody reads these files, and they name people all the same.
        remove_replaced(day)
    counts: Counter[tuple[str, str]] = Counter()
    for path, erasure in list(Search(frozenset(people)).files(paths.root)):
        first = path.relative_to(paths.root).parts[0]
        if first == "bundles" or first.startswith("tables"):
            continue
        erasure.erase()
        _remove_empty(path.parent, paths.root)
        counts[_PLACES.get(first, (first, "rewritten without them; what cannot be is removed"))] += erasure.num_places
    return [Removed(where, number, how) for (where, how), number in counts.items()]


def _remove_empty(folder: Path, root: Path) -> None:
    """Removes folders that are empty, which may be called like a person."""
    while folder != root and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


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


def _remove_left_over(paths: RunPaths) -> None:
    """Removes what killed runs left half written or to resume from; bundles have a retention of their own for that."""
    for path in [left for pattern in (".*.tmp", ".*.old", ".*.fit") for left in paths.root.rglob(pattern)]:
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
