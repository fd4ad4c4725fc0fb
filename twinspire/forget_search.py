"""Search for people by their ids in every file of a run folder, and how each kind of file loses them.

    Parquet, CSV, SQLite    without the rows that name them
    JSON, JSON lines        without their entries; messages that quote them are replaced
    HTML                    without their rows of tables; the page goes where it names them elsewhere
    text                    without the lines that name them
    all else, compressed    removed: NumPy arrays of text, .gz, .bz2, .zst, files and folders that are called like them

Where a column or key says that it is of users, only that is compared: an arm or a category may be called like a person.
A number is a person only there, or where a message says "user 12" or '12'.
"""

from __future__ import annotations

import html
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artefacts.files import json_text, replace_text
from features.forgotten import name_any
from features.tables import RAW, rewrite_without

REMOVED = "(removed: it named somebody who is forgotten)"
# What the steps read again: there, names of columns and categories are no people.
OF_STEPS = {
    "tables", "tables.sources", "tables.quarantine", "features", "models", "vectors", "index", "codes", "mined",
    "second_look", "teachers", "steps", "nights", "gates", "bundles",
}  # fmt: skip
# Keys of messages, which may quote an id anywhere.
MESSAGES = {"error", "checks", "sentence", "to_do", "outcome", "why", "lines", "changes", "notes", "problems"}
# Locks, hashes of ids, and ids of items.
_OWN = {(".lock",), ("forgotten.json",), ("forgetting.json",), ("denied_items.txt",), ("added_items.parquet",)}
COMPRESSED = {".gz", ".bz2", ".zst", ".lz4"}
# Of an id that is looked for among bytes without structure.
MIN_BYTES = 6
# Names of columns, keys and files that are of users, such as user_id, users, userId, example_user.
OF_USERS = re.compile(r"(?!num_)(?:\w*_)?users?(?:_?ids?)?", re.IGNORECASE)
USER_ID = {"user", "user_id"}
_GONE = object()

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Erasure:
    """What a file has of some people.

    Attributes:
        num_places: Rows, entries or lines; 1 for a file that goes.
        erase: Takes them out, or removes the file.
    """

    num_places: int
    erase: Callable[[], object]


@dataclass
class Search:
    """Looks for people.

    Attributes:
        people: Their ids.
        found: Those who were named so far.
    """

    people: frozenset[str]
    found: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Compiles the patterns."""
        numbers = sorted(re.escape(name) for name in self.people if name.isdecimal())
        words = sorted((re.escape(name) for name in self.people if not name.isdecimal()), key=len, reverse=True)
        self._words = re.compile(rf"(?<![\w.-])({'|'.join(words)})(?![\w-])") if words else None
        self._all = re.compile(rf"(?<![\w.-])({'|'.join([*words, *numbers])})(?![\w-])")
        before = r"(?:\busers?(?:[ _]ids?)?\"?[\s:=('\"]+|')"
        self._numbers = re.compile(rf"{before}({'|'.join(numbers)})(?![\w.-])", re.IGNORECASE) if numbers else None

    def is_one(self, value: object, *, of_users: bool) -> bool:
        """Whether a value is the id of one of them; numbers are only where values are of users."""
        name = str(value)
        if name not in self.people or (name.isdecimal() and not of_users):
            return False
        self.found.add(name)
        return True

    def quoted(self, text: str, *, is_message: bool = False) -> bool:
        """Whether a text names one of them."""
        patterns = [self._all] if is_message else [pattern for pattern in (self._words, self._numbers) if pattern]
        names = {name for pattern in patterns for name in pattern.findall(text)}
        self.found |= names
        return bool(names)

    def files(self, root: Path, below: Path | None = None) -> Iterator[tuple[Path, Erasure]]:
        """Files of a folder that name them, and how they lose them; files that are of items are not looked at."""
        for path in sorted((below or root).rglob("*")):
            parts = path.relative_to(root).parts
            of_items = parts[0] in OF_STEPS and any("item" in part for part in parts)
            if path.is_symlink() or not path.is_file() or of_items or parts in _OWN:
                continue
            if (erasure := self.look(path, parts)) is not None:
                yield path, erasure

    def look(self, path: Path, parts: Sequence[str]) -> Erasure | None:
        """What a file has of them; None if it has nothing."""
        of_steps = parts[0] in OF_STEPS
        texts = [text for part in parts[1:] for text in (part, Path(part).stem, re.sub(r"[=_.]", " ", part))]
        if not of_steps and any([self.quoted(text) for text in texts]):
            return Erasure(1, path.unlink)
        try:
            reader = _READERS.get(path.suffix.lower(), _of_unknown)
            return reader(self, path, of_steps)
        except (pa.ArrowInvalid, sqlite3.DatabaseError, ValueError, EOFError):
            # Damaged, or not what its suffix promises.
            return _of_bytes(self, path.read_bytes(), path, of_steps)

    def of_users(self, name: str) -> bool:
        """Whether a column, key or file is of users by its name."""
        return OF_USERS.fullmatch(name) is not None


def _of_parquet(search: Search, path: Path, of_steps: bool) -> Erasure | None:
    schema = pq.read_schema(path)
    names = [name for name in schema.names if search.of_users(name) or name == RAW]
    if search.of_users(path.stem) and "id" in schema.names:
        names.append("id")
    if not names and not of_steps:
        names = [name for name in schema.names if name != "item_id"]
    gone: Mask | None = None
    for name in names:
        kind = schema.field(name).type
        if _holds_text(kind) or (name in USER_ID and pa.types.is_integer(kind)):
            mask = _rows(search, pq.read_table(path, columns=[name]).column(0), name)
            gone = mask if gone is None else gone | mask
    if gone is None or not gone.any():
        return None
    return Erasure(int(gone.sum()), partial(rewrite_without, path, gone))


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _rows(search: Search, column: pa.ChunkedArray, name: str) -> Mask:
    """Rows of a column that are of them."""
    column = column.combine_chunks()
    if name == RAW:
        of_each = {one: name_any({one}, column).astype(bool) for one in search.people}
        search.found |= {one for one, rows in of_each.items() if rows.any()}
        any_of_them: Mask = np.any(list(of_each.values()), axis=0)
        return any_of_them
    values = column
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if is_list:
        values = pc.list_flatten(column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    of_users = search.of_users(name) or name == "id"
    distinct = pc.unique(values)
    named = np.array([value is not None and search.is_one(value, of_users=of_users) for value in distinct.to_pylist()])
    mask = np.zeros(len(column), dtype=bool)
    if named.any():
        is_named = named[pc.index_in(values, value_set=distinct).to_numpy(zero_copy_only=False)]
        mask[pc.list_parent_indices(column).to_numpy()[is_named] if is_list else is_named] = True
    return mask


def _of_json(search: Search, path: Path, of_steps: bool) -> Erasure | None:
    document = json.loads(path.read_text(encoding="utf-8"))
    count: list[None] = []
    changed = _without(search, document, "", of_steps, count)
    if not count:
        return None
    if changed is _GONE:
        return Erasure(1, path.unlink)
    return Erasure(len(count), lambda: replace_text(path, json_text(changed, indent=2, ensure_ascii=False) + "\n"))


def _without(search: Search, value: Any, key: str, of_steps: bool, count: list[None]) -> Any:
    """A JSON value without them; `key` is the nearest one, and `count` grows by each place that changes."""
    of_users = search.of_users(key)
    if isinstance(value, dict):
        # An entry that has one of them as its user is theirs, the whole of it.
        if any([_is_of(search, name, part) for name, part in value.items()]):
            count.append(None)
            return _GONE
        kept = {}
        for name, part in value.items():
            if (of_users or not of_steps) and search.is_one(name, of_users=of_users):
                count.append(None)
            elif (changed := _without(search, part, name, of_steps, count)) is not _GONE:
                kept[name] = changed
        return kept
    if isinstance(value, list):
        changed = [_without(search, part, key, of_steps, count) for part in value]
        return [part for part in changed if part is not _GONE]
    if not isinstance(value, str):
        return value
    if (of_users or not of_steps) and search.is_one(value, of_users=of_users):
        count.append(None)
        return _GONE
    is_message = key in MESSAGES
    if (is_message or not of_steps) and search.quoted(value, is_message=is_message):
        count.append(None)
        return REMOVED
    return value


def _is_of(search: Search, key: str, value: Any) -> bool:
    """Whether a key names one of them; a whole number does only under the key of an id, as others count."""
    is_id = isinstance(value, str) or (key in USER_ID and isinstance(value, int))
    return is_id and search.of_users(key) and search.is_one(value, of_users=True)


def _of_html(search: Search, path: Path, _of_steps: bool) -> Erasure | None:
    page = path.read_text(encoding="utf-8")

    def names(text: str) -> bool:
        heads = [html.unescape(head.strip()) for head in re.findall(r"<th[^>]*>([^<]*)</th>", text)]
        return search.quoted(html.unescape(text)) or any([search.is_one(head, of_users=True) for head in heads])

    rows = [row for row in re.findall(r"<tr\b.*?</tr>\s*", page, re.DOTALL) if names(row)]
    for row in rows:
        page = page.replace(row, "")
    if search.quoted(html.unescape(page)):
        return Erasure(1, path.unlink)
    return Erasure(len(rows), partial(replace_text, path, page)) if rows else None


def _of_text(search: Search, path: Path, of_steps: bool) -> Erasure | None:
    text = path.read_bytes().decode("utf-8")
    lines = text.splitlines(keepends=True)
    kept, count = [], 0
    for line in lines:
        changed = _line_without(search, line, of_steps)
        count += changed != line
        kept.append(changed)
    return Erasure(count, lambda: replace_text(path, "".join(kept))) if count else None


def _line_without(search: Search, line: str, of_steps: bool) -> str:
    """A line of a log or of JSON without them; any other line that names them goes."""
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    if not isinstance(document, dict | list):
        return "" if search.quoted(line) else line
    count: list[None] = []
    changed = _without(search, document, "", of_steps, count)
    if not count:
        return line
    return "" if changed is _GONE else json_text(changed, ensure_ascii=False) + "\n"


def _of_csv(search: Search, path: Path, _of_steps: bool) -> Erasure | None:
    lines = path.read_bytes().decode("utf-8").splitlines(keepends=True)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    head = [name.strip(' "\r\n') for name in lines[0].split(delimiter)] if lines else []
    places = [place for place, name in enumerate(head) if search.of_users(name)]

    def names(line: str) -> bool:
        fields = [value.strip(' "\r\n') for value in line.split(delimiter)]
        if not places:
            return search.quoted(line)
        return any(place < len(fields) and search.is_one(fields[place], of_users=True) for place in places)

    kept = [*lines[:1], *(line for line in lines[1:] if not names(line))]
    count = len(lines) - len(kept)
    return Erasure(count, lambda: replace_text(path, "".join(kept))) if count else None


def _of_array(search: Search, path: Path, of_steps: bool) -> Erasure | None:
    of_users = search.of_users(path.stem)
    if of_steps and not of_users:
        return None
    loaded = np.load(path, allow_pickle=False)
    arrays = [loaded] if isinstance(loaded, np.ndarray) else [loaded[name] for name in loaded.files]
    texts = [np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array for array in arrays]
    values = [value for array in texts if array.dtype.kind == "U" for value in np.unique(array).tolist()]
    return Erasure(1, path.unlink) if any([search.is_one(value, of_users=of_users) for value in values]) else None


def _of_sqlite(search: Search, path: Path, of_steps: bool) -> Erasure | None:
    keys = {one.encode() for one in search.people}
    found: list[tuple[str, list[int]]] = []
    with closing(sqlite3.connect(path)) as database:
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            cursor = database.execute(f'SELECT rowid, * FROM "{table}"')
            names = [column[0] for column in cursor.description][1:]
            own = [place for place, name in enumerate(names) if search.of_users(name) or name == "entity_key"]
            looked_at = own or ([] if of_steps else range(len(names)))
            rows = []
            for number, *values in cursor:
                cells = [(values[place], search.of_users(names[place])) for place in looked_at]
                if any([_is_cell(search, cell, of_users, keys) for cell, of_users in cells]):
                    rows.append(number)
            if rows:
                found.append((table, rows))
    if not found:
        return None

    def erase() -> None:
        with closing(sqlite3.connect(path)) as database:
            with database:
                for table, rows in found:
                    database.executemany(f'DELETE FROM "{table}" WHERE rowid = ?', [(row,) for row in rows])
            # SQLite leaves what it deletes in the pages that it frees.
            database.execute("VACUUM")

    return Erasure(sum(len(rows) for _, rows in found), erase)


def _is_cell(search: Search, cell: Any, of_users: bool, keys: set[bytes]) -> bool:
    if isinstance(cell, bytes):
        # As Feast writes a key: the length of the id, then the id.
        for key in keys:
            if cell == key or cell.endswith(len(key).to_bytes(4, "little") + key):
                search.found.add(key.decode())
                return True
        return False
    if isinstance(cell, str) and not of_users and search.quoted(cell):
        return True
    return search.is_one(cell, of_users=of_users)


def _of_compressed(search: Search, path: Path, of_steps: bool) -> Erasure | None:
    with pa.input_stream(str(path), compression="detect") as stream:
        return _of_bytes(search, stream.read(), path, of_steps)


def _of_unknown(search: Search, path: Path, of_steps: bool) -> Erasure | None:
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"SQLite format 3"):
        return _of_sqlite(search, path, of_steps)
    if head.startswith(b"PAR1"):
        return _of_parquet(search, path, of_steps)
    return None if of_steps else _of_bytes(search, path.read_bytes(), path, of_steps)


def _of_bytes(search: Search, content: bytes, path: Path, of_steps: bool) -> Erasure | None:
    """Text goes whole where it names them, and so do bytes without structure, where an id is no chance."""
    try:
        is_named = search.quoted(content.decode("utf-8"))
    except UnicodeDecodeError:
        long = [one for one in search.people if len(one.encode()) >= MIN_BYTES and not one.isdecimal()]
        named = {one for one in long if one.encode() in content}
        search.found |= named
        is_named = bool(named)
    return Erasure(1, path.unlink) if is_named and not of_steps else None


_READERS: dict[str, Callable[[Search, Path, bool], Erasure | None]] = {
    ".parquet": _of_parquet,
    ".json": _of_json,
    ".html": _of_html,
    ".csv": _of_csv,
    ".tsv": _of_csv,
    ".npy": _of_array,
    ".npz": _of_array,
    ".db": _of_sqlite,
    ".sqlite": _of_sqlite,
    ".log": _of_text,
    ".txt": _of_text,
    ".jsonl": _of_text,
    ".md": _of_text,
    **dict.fromkeys(COMPRESSED, _of_compressed),
}
