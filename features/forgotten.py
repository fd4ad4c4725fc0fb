"""Users to be forgotten (GDPR erasure), as salted hashes of their ids, so that a source cannot bring them back.

    forgotten.json     {"format": 1, "salt": "<hex>", "hashes": ["<SHA-256 of salt and id>", ...]}, for its owner only

Whoever has the file and guesses an id can tell that it is there: it is kept from others (mode 600), and the salt, one
for each dataset, keeps lists of several datasets from being compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from artefacts.files import json_text
from features.ids import BLANKS, normal_id

FORMAT = 1
SALT_BYTES = 16
# Between the fields of a line that could not be split.
DELIMITERS = (",", ";", "\t", "|", "::", ":", " ")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Forgotten:
    """Ids that are known by their hashes alone; `user_id in forgotten` is true for one of them.

    Attributes:
        salt: Of this dataset, hexadecimal; empty if no user is forgotten yet.
        hashes: SHA-256 of salt and id, hexadecimal.
    """

    salt: str = ""
    hashes: frozenset[str] = frozenset()

    def __contains__(self, user_id: object) -> bool:
        """Whether an id is among them."""
        return bool(self.hashes) and isinstance(user_id, str) and self._hash(user_id) in self.hashes

    def __bool__(self) -> bool:
        """Whether there is anybody."""
        return bool(self.hashes)

    def digest(self) -> str:
        """Identifies the list: 12 hex digits; empty if no user is on it."""
        return hashlib.sha256("".join(sorted(self.hashes)).encode()).hexdigest()[:12] if self.hashes else ""

    def and_also(self, user_ids: Iterable[str]) -> Forgotten:
        """The same with more people, whose ids are as `features.ids` writes them."""
        salted = self if self.salt else replace(self, salt=secrets.token_hex(SALT_BYTES))
        return replace(salted, hashes=salted.hashes | {salted._hash(user_id) for user_id in user_ids})

    def save(self, path: Path) -> None:
        """Replaces the file at once, readable by its owner alone; on disk before this returns."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        plain = {"format": FORMAT, "salt": self.salt, "hashes": sorted(self.hashes)}
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json_text(plain, indent=2))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Forgotten:
        """Reads what `save` wrote; an empty list if there is no file.

        Raises:
            ValueError: The file is damaged: continuing without it would bring users back.
        """
        try:
            plain = json.loads(path.read_text())
            if plain["format"] != FORMAT:
                raise ValueError(f"format {plain['format']}")
            return cls(str(plain["salt"]), frozenset(map(str, plain["hashes"])))
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: cannot be read ({error}), expected the list of who is forgotten, format {FORMAT}; restore it "
                "from a backup, because without it their events would be read again"
            ) from None

    def _hash(self, user_id: str) -> str:
        return hashlib.sha256(f"{self.salt}:{user_id}".encode()).hexdigest()


NOBODY = Forgotten()


def are_of(people: Container[str], ids: pa.Array | pa.ChunkedArray) -> Mask:
    """Which ids are of some people: [n] string -> [n] bool; a null is of none. Each distinct id is looked at once."""
    distinct = pc.unique(ids)
    named = np.array([value is not None and value in people for value in distinct.to_pylist()], dtype=bool)
    if not named.any():
        return np.zeros(len(ids), dtype=bool)
    found: Mask = named[pc.index_in(ids, value_set=distinct).to_numpy(zero_copy_only=False)]
    return found


def name_any(people: Container[str], texts: pa.Array | pa.ChunkedArray) -> Mask:
    """Which raw rows name a forgotten user: [n] string, JSON objects or lines -> [n] bool; false for null.

    No column is known here: a row counts as theirs where any of its fields is one of the ids.
    """
    return np.array(
        [text is not None and any(field in people for field in _fields(text)) for text in texts.to_pylist()]
    )


def _fields(text: str) -> set[str]:
    """What may be an id in a row as text."""
    try:
        row = json.loads(text)
    except ValueError:
        row = {"line": text}
    values = [str(value) for value in row.values() if value is not None] if isinstance(row, dict) else [text]
    if isinstance(row, dict) and row.keys() == {"line"}:
        values += [field.strip(" \"'\r\n") for delimiter in DELIMITERS for field in values[0].split(delimiter)]
    return {name for value in values if value for name in (value, _normal(value))}


COMMENT = re.compile(r"(^|\s)#.*$")


def ids_in(text: str) -> list[str]:
    """The ids of a text, in order, as they are written everywhere; blank lines and comments name none.

    A line that is a JSON string holds an id that would be read otherwise by itself, such as `"a #1"`.
    """
    found = []
    # Not splitlines(): an id may come from a file with line ends of another kind.
    for line in re.split(r"\r\n|\n|\r", text):
        quoted = _quoted_id(line.strip())
        name = COMMENT.sub("", line).strip(BLANKS) if quoted is None else quoted
        if name:
            found.append(_normal(name))
    return found


def _quoted_id(line: str) -> str | None:
    """The id of a line that is a JSON string, perhaps with a comment behind it."""
    if not line.startswith('"'):
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(line)
    except ValueError:
        return None
    return str(value) if not COMMENT.sub("", line[end:]).strip() else None


def _normal(name: str) -> str:
    try:
        return normal_id(name)
    except ValueError:
        # No table has it; it stays, so that it shows.
        return name


def line_of(name: str) -> str:
    """A line for an id, which `ids_in` reads back.

    Raises:
        ValueError: It is no id: empty, too long, or with line breaks or control characters.
    """
    name = normal_id(name)
    return name if ids_in(name) == [name] else json_text(name, ensure_ascii=False)
