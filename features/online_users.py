"""What does an online store know of some users now? One read, as near to the store as Feast lets its readers come.

`FeatureStore.get_online_features` resolves services and views, builds a response and unpacks it again: .27 ms for one
user with 15 fields, .06 ms of which are the store. Its lookup of the service takes four more. So the view is looked up
once, and Feast's online store is asked for its rows; a test compares both ways.

B users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from features import columns
from features.feast_values import plain
from features.storage import VIEW_NAMES

if TYPE_CHECKING:
    from feast import FeatureStore


class OnlineUsers:
    """Reads rows of the user view through Feast.

    Args:
        feast: The store, whose definitions were applied.
        schema: Fields of the view.
        wait_seconds: What a read of a store that is a file may wait for a writer.
    """

    def __init__(self, feast: FeatureStore, schema: pa.Schema, *, wait_seconds: float) -> None:
        """Looks the view up."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        self._view = feast.get_feature_view(VIEW_NAMES["user"])
        self._provider, self._config = feast._get_provider(), feast.config
        self._fields, self._rows = schema.names, row_type(schema)
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
            config=self._config, table=self._view, entity_keys=keys, requested_features=self._fields
        )
        found = [{name: plain(value) for name, value in (values or {}).items()} for _, values in rows]
        return table_of(user_ids, found, self._rows)


def row_type(schema: pa.Schema) -> pa.StructType:
    """What a row of the view is: user_id and its fields."""
    return pa.struct([pa.field(columns.USER_ID, pa.string()), *schema])


def table_of(user_ids: Sequence[str], found: Sequence[Mapping[str, Any]], kind: pa.StructType) -> pa.Table:
    """Rows that were read as a table.

    Args:
        user_ids: [B].
        found: [B], field -> value, without what is not known; fields that the view does not have are left out.
        kind: Of a row, as `row_type` gives it.

    Returns:
        [B] rows: user_id and the fields of the view, nulls where nothing is known.
    """
    rows = [{**values, columns.USER_ID: user_id} for user_id, values in zip(user_ids, found, strict=True)]
    # All columns at once, in half the time that each by itself would take for one user.
    return pa.Table.from_struct_array(pa.array(rows, kind))
