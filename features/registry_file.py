"""Feast registry in one file that is replaced atomically: Feast's own store overwrites the file while it is read."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry

from artefacts.files import replaced


class WholeFileRegistryStore(FileRegistryStore):  # type: ignore[misc]
    """Feast's registry in a file that is whole at any moment, also where its writer is killed or the disk is full."""

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid4())
        registry_proto.last_updated.FromDatetime(datetime.now(UTC))
        with replaced(self._filepath) as temporary:
            temporary.write_bytes(registry_proto.SerializeToString())
