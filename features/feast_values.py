"""What does Feast write for a value and for a key? The bytes of its online stores, without loading Feast.

Feast's own definition of the messages is read, from its own file: an import by name would load all of Feast before,
which takes seconds and 80 MB.
"""

from __future__ import annotations

import importlib.util
import struct
from functools import cache
from pathlib import Path
from typing import Any

from features import columns

# `ValueType.STRING` of feast/types/Value.proto.
_STRING = 2
_JOIN_KEY = columns.USER_ID.encode()
KEY_HEAD = struct.pack("<3I", 1, _STRING, len(_JOIN_KEY)) + _JOIN_KEY + struct.pack("<I", _STRING)
"""How every user's key begins: one join key, its type, length and name, and the type of its value."""


def user_key(user_id: str) -> bytes:
    """The key of a user in an online store, as `serialize_entity_key` of Feast writes it in version 3."""
    value = user_id.encode()
    return KEY_HEAD + struct.pack("<I", len(value)) + value


@cache
def value_message() -> Any:
    """Feast's protobuf message `feast.types.Value`; the same class that Feast uses where that is loaded too.

    Raises:
        ModuleNotFoundError: Feast is not installed.
    """
    found = importlib.util.find_spec("feast")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("feast is not installed; run `make setup`")
    path = Path(found.submodule_search_locations[0]) / "protos" / "feast" / "types" / "Value_pb2.py"
    spec = importlib.util.spec_from_file_location("_feast_value", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Value


def plain(value: Any) -> Any:
    """What a message holds: a number, text, a list, or None."""
    which = value.WhichOneof("val")
    if which is None or which == "null_val":
        return None
    held = getattr(value, which)
    return list(held.val) if which.endswith("_list_val") else held
