"""Versions of the online features: each is filled once for a midnight and a schema, and bundles name theirs.

    features/online/
      2017-12-01-1b2c3d4e/     a version, a Feast project of its own: its day, and a hash over what it holds
        feature_store.yaml  registry.db  settings.json
        online.db              the values, with SQLite; Redis has them under keys that end in the project's name
        filled.txt             the day, written last

A bundle is read with the version that it was made with, whatever was computed since: by a night that was refused, that
stopped half-way, or that has other columns. Retention removes a version together with the last bundle that names it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

import pyarrow.parquet as pq

from artefacts import files, locks
from artefacts.paths import FILLED
from features import columns
from features.schema import Schema
from features.store import SETTINGS_FILE, Store, StoreSettings, repository

ASIDE = ".online.db.tmp"
"""What SQLite fills before it takes the place of what is read."""
VERSION = re.compile(r"\d{4}-\d{2}-\d{2}-[0-9a-f]{8}")


def version_of(as_of: dt.date, users: Path, schema: Schema) -> str:
    """Name of a version: the same for the same values of the same columns, whenever they are computed.

    Args:
        as_of: The midnight whose features it holds.
        users: Their Parquet file, as the point-in-time join wrote it.
        schema: The dataset.
    """
    digest = hashlib.sha256(files.json_text(schema.model_dump(mode="json"), sort_keys=True).encode())
    with pq.ParquetFile(users) as file:
        # Not the bytes of the file, which name the version of the writer.
        for batch in file.iter_batches():
            digest.update(batch.serialize())
    return f"{as_of}-{digest.hexdigest()[:8]}"


def fill(folder: Path, settings: StoreSettings, version: str) -> None:
    """Brings the values of a version's midnight into the online store; what others hold stays as it is.

    Args:
        folder: The run's `features/` folder.
        settings: Of the store.
        version: Which; where it was filled before, it is filled again, and can be read meanwhile.
    """
    as_of = dt.date.fromisoformat(version[:10])
    if (before := _settings(folder, version)) is not None and _place(before) != _place(settings):
        remove(folder, version)
    store = Store(folder, settings, version)
    # Every user has a snapshot at least this often.
    since = as_of - dt.timedelta(days=settings.refresh_days["user"] + 1)
    with locks.locked(repository(folder, version)):
        remove_left_over(folder, version)
        aside = store.online_file.with_name(ASIDE)
        if settings.online_store == "sqlite":
            store.feast.config.online_store.path = str(aside)
        store.apply()
        store.materialize(columns.midnight(since), columns.midnight(as_of))
        if settings.online_store == "sqlite":
            os.replace(aside, store.online_file)
        files.replace_text(repository(folder, version) / FILLED, str(as_of))


def open_filled(folder: Path, version: str) -> Store:
    """Opens a version to read it.

    Raises:
        FileNotFoundError: It is not there, or was not filled to the end.
    """
    path = repository(folder, version) / FILLED
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: missing, so that the online features {version} are not there or not whole; publish a bundle "
            f"whose features are there, or run `twinspire features --force --as-of {version[:10]}`"
        )
    return Store.open(folder, version)


def versions(folder: Path) -> list[str]:
    """All versions, filled or not, the latest day first."""
    found = (folder / "online").glob("????-??-??-????????")
    return sorted((path.name for path in found if VERSION.fullmatch(path.name)), reverse=True)


def remove(folder: Path, version: str) -> None:
    """Removes a version from the online store, then its folder; killed meanwhile, the next call does it again."""
    own = repository(folder, version)
    (own / FILLED).unlink(missing_ok=True)
    settings = _settings(folder, version)
    if settings is not None and settings.online_store == "redis":
        store = Store(folder, settings, version)
        # Of a version that was not registered Feast would remove nothing.
        store.apply()
        store.feast.teardown()
    shutil.rmtree(own, ignore_errors=True)


def expired(folder: Path, keep: Collection[str], days: Collection[str] = ()) -> list[str]:
    """Versions that nobody needs: not kept, not being filled, and not the one that was filled last.

    The one that was filled last may be of a night whose bundle is not made yet.

    Args:
        folder: The run's `features/` folder.
        keep: Versions that bundles name.
        days: Days whose versions stay, as a bundle of theirs cannot be asked which one it names.
    """
    filled = {name: repository(folder, name) / FILLED for name in versions(folder)}
    moments = {name: path.stat().st_mtime_ns for name, path in filled.items() if path.exists()}
    newest = max(moments, key=lambda name: moments[name], default=None)
    return [
        name
        for name in filled
        if name not in keep and name[:10] not in days and name != newest and not _is_being_filled(folder, name)
    ]


def remove_left_over(folder: Path, version: str) -> None:
    """Removes what a killed fill left half written."""
    for path in repository(folder, version).glob(f"{ASIDE}*"):
        path.unlink()


def remove_unversioned(folder: Path) -> None:
    """Removes the SQLite store that earlier versions of this program shared between all bundles."""
    for path in (folder / "feast" / "online.db", folder / "online_day.txt"):
        path.unlink(missing_ok=True)


def _settings(folder: Path, version: str) -> StoreSettings | None:
    path = repository(folder, version) / SETTINGS_FILE
    return StoreSettings.from_json(path.read_text()) if path.exists() else None


def _place(settings: StoreSettings) -> tuple[str, str]:
    is_redis = settings.online_store == "redis"
    return settings.online_store, settings.redis_connection if is_redis else ""


def _is_being_filled(folder: Path, version: str) -> bool:
    try:
        with locks.locked(repository(folder, version), wait=False):
            return False
    except (BlockingIOError, FileNotFoundError):
        return True
