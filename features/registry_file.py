"""Feast registry in one file that is replaced atomically: Feast's own store overwrites the file while it is read."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from uuid import uuid4

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry


class WholeFileRegistryStore(FileRegistryStore):  # type: ignore[misc]
    """Feast's registry in a file that is whole at any moment, also where its writer is killed or the disk is full."""

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid4())
        registry_proto.last_updated.FromDatetime(datetime.now(UTC))
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._filepath.with_name(f".{self._filepath.name}.tmp")
        try:
            temporary.write_bytes(registry_proto.SerializeToString())
            os.replace(temporary, self._filepath)
        finally:
            temporary.unlink(missing_ok=True)
