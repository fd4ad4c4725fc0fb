"""How is the online store emptied, of everybody or of somebody? Before it is filled anew, or because a person goes.

Redis refuses values that are not younger than what it holds, and no store forgets a user who is gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from features import columns
from features.storage import VIEW_NAMES
from features.store import Store


def empty_online_store(store: Store) -> None:
    """Removes all users' values; readers find nobody until the store is filled."""
    view = store.feast.get_feature_view(VIEW_NAMES["user"])
    provider = store.feast._get_provider()
    provider.teardown_infra(store.settings.project, [view], [])
    # The store's tables again, without a row.
    provider.update_infra(store.settings.project, [], [view], [], [], partial=True)


def forget_online(store: Store, user_ids: Sequence[str]) -> int:
    """Removes all values of some users; readers find nobody under their ids from now on.

    Feast writes and reads single entities and has no call that removes one: what it would read is removed by its own
    key, from its own connection.

    Args:
        store: The feature store; its online store need not be there.
        user_ids: Whose.

    Returns:
        How many of them were there.
    """
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    config = store.feast.config
    keys = [
        serialize_entity_key(
            EntityKey(join_keys=[columns.USER_ID], entity_values=[Value(string_val=user_id)]),
            entity_key_serialization_version=config.entity_key_serialization_version,
        )
        for user_id in user_ids
    ]
    if store.settings.online_store == "redis":
        client = store.feast._get_provider().online_store._get_client(config.online_store)
        return sum(int(client.delete(key + config.project.encode()) > 0) for key in keys)
    return _forget_in_sqlite(Path(config.online_store.path), keys)


def _forget_in_sqlite(path: Path, keys: Sequence[bytes]) -> int:
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        num_users = 0
        with database:
            for key in keys:
                deleted = [database.execute(f'DELETE FROM "{name}" WHERE entity_key = ?', (key,)) for name in tables]
                num_users += any(cursor.rowcount > 0 for cursor in deleted)
        # SQLite leaves what it deletes in the pages that it frees, also what it moved earlier.
        database.execute("VACUUM")
    return num_users
