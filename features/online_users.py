"""What does the online store know of some users now? One read, as near to the store as Feast lets its readers come.

`FeatureStore.get_online_features` resolves services and views, builds a response and unpacks it again: .27 ms for one
user with 15 fields, .06 ms of which are the store. Its lookup of the service takes four more. So the view is looked up
once, and Feast's online store is asked for its rows; a test compares both ways.

B users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from features import columns

if TYPE_CHECKING:
    from feast import FeatureStore


class OnlineUsers:
    """Reads rows of the user view.

    Args:
        feast: The store, whose definitions were applied.
        schema: Fields of the view.
        wait_seconds: What a read of a store that is a file may wait for a writer.
    """

    def __init__(self, feast: FeatureStore, schema: pa.Schema, *, wait_seconds: float) -> None:
        """Looks the view up."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        from features.feast_repo.definitions import VIEW_NAMES

        self._view = feast.get_feature_view(VIEW_NAMES["user"])
        self._provider, self._config = feast._get_provider(), feast.config
        self._fields = [(field.name, field.type) for field in schema]
        self._names = [columns.USER_ID, *schema.names]
        self._entity_key, self._value = EntityKey, Value
        if feast.config.online_store.type == "sqlite":
            # SQLite waits five seconds unless it is told otherwise.
            connection = self._provider.online_store._get_conn(feast.config)
            connection.execute(f"PRAGMA busy_timeout = {max(1, round(wait_seconds * 1000))}")

    def __call__(self, user_ids: list[str]) -> pa.Table:
        """One row per id in the order asked: user_id and the fields of the view, nulls where nothing is known."""
        keys = [
            self._entity_key(join_keys=[columns.USER_ID], entity_values=[self._value(string_val=user_id)])
            for user_id in user_ids
        ]
        rows = self._provider.online_read(
            config=self._config, table=self._view, entity_keys=keys, requested_features=self._names[1:]
        )
        found = [values or {} for _, values in rows]
        arrays = [pa.array([_plain(values.get(name)) for values in found], kind) for name, kind in self._fields]
        return pa.Table.from_arrays([pa.array(user_ids, pa.string()), *arrays], names=self._names)


def _plain(value: Any) -> Any:
    """What a protobuf value of Feast's holds: a number, text, a list, or None."""
    which = None if value is None else value.WhichOneof("val")
    if which is None or which == "null_val":
        return None
    held = getattr(value, which)
    return list(held.val) if which.endswith("_list_val") else held
