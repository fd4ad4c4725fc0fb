"""Whole records of a delimited text file: framed before they are parsed, so that a stray quote cannot swallow lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

BLOCK_BYTES = 4 << 20
MAX_RECORD_BYTES = 256 << 20
MAX_RECORD_LINES = 1000
"""Lines of one record; a quoted field with more of them is taken for a quote that nothing closes."""
LEAST_EVIDENCE = 3
LINE_END = re.compile(rb"\r\n|\n|\r")


class RecordTooLongError(ValueError):
    """A record is longer than can be held."""


@dataclass(frozen=True)
class Records:
    """Consecutive lines of a file.

    Attributes:
        whole: Whole records, with their line ends; blank lines may be among them.
        swallowed: Lines behind them that a quote has swallowed: each would be lost in the field of another row.
    """

    whole: bytes
    swallowed: tuple[bytes, ...] = ()


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, num_bytes: int, /) -> bytes:
        """At most so many bytes; none at the end."""


class CountedLines:
    """Bytes of a file, whose lines are counted as they are read.

    Args:
        stream: Decompressed bytes.
    """

    def __init__(self, stream: Readable) -> None:
        """Has read nothing."""
        self._stream = stream
        self._num_ends, self._last = 0, b"\n"

    def read(self, num_bytes: int, /) -> bytes:
        """The next bytes."""
        data = self._stream.read(num_bytes)
        if data:
            self._num_ends += data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
            # A line end of two bytes, read in two parts.
            self._num_ends -= self._last == b"\r" and data.startswith(b"\n")
            self._last = data[-1:]
        return data

    @property
    def num_lines(self) -> int:
        """Lines so far, one without an end among them."""
        return self._num_ends + (self._last not in (b"\n", b"\r"))


def split_header(stream: Readable, *, delimiter: bytes, quoted: bool) -> tuple[bytes, bytes]:
    """The first record that is not blank, and what was read behind it; the header is empty where there is none."""
    held = b""
    while True:
        block = stream.read(BLOCK_BYTES)
        held += block
        blank = re.match(rb"[\r\n]*", held)
        begin = blank.end() if blank else 0
        end = _end_of_record(held, begin, delimiter, quoted=quoted, is_last=not block)
        if end is not None:
            return held[begin:end], held[end:]
        if not block:
            return held[begin:], b""
        _check_length(len(held))


def _end_of_record(data: bytes, begin: int, delimiter: bytes, *, quoted: bool, is_last: bool) -> int | None:
    """End of the record that begins at `begin`, behind its line end; None where the data ends before."""
    if quoted and data.find(b'"', begin) >= 0:
        found = _loose(delimiter).match(data, begin)
    else:
        found = re.compile(rb"[^\r\n]*+(?:\r\n|\n|\r|\Z)").match(data, begin)
    if found is None or (found.end() == len(data) and not is_last):
        return None
    return found.end()


def frame(
    stream: Readable, *, delimiter: bytes, quoted: bool, num_columns: int, held: bytes = b""
) -> Iterator[Records]:
    """Splits a file into whole records and lines that a quote has swallowed.

    A record of several lines is faulty where its quote is never closed, where text follows a closing quote, where it
    has more lines than `MAX_RECORD_LINES`, or where each of its lines would be a whole row by itself.

    Args:
        stream: Decompressed bytes.
        delimiter: Between fields, one byte.
        quoted: Whether fields may be quoted.
        num_columns: Fields of a row.
        held: Bytes that were read before and come first.

    Yields:
        Lines in the order of the file; every line is in exactly one of them.

    Raises:
        RecordTooLongError: A record has more bytes than `MAX_RECORD_BYTES`.
    """
    num_bytes = BLOCK_BYTES
    while True:
        block = stream.read(num_bytes)
        is_last = not block
        held += block
        end = len(held) if is_last else _safe_end(held)
        position = 0
        if quoted and held.find(b'"', 0, end) >= 0:
            for records, behind in _frame_quoted(held, end, delimiter, num_columns, is_last=is_last):
                position = behind
                yield records
        else:
            position = end
            yield Records(held[:end])
        # A record that is not complete doubles what is read, so that it is not searched again too often.
        num_bytes = BLOCK_BYTES if position else max(BLOCK_BYTES, len(held))
        held = held[position:]
        if is_last:
            return
        _check_length(len(held))


def _safe_end(data: bytes) -> int:
    """Behind the last line end; a carriage return at the very end may be half of one."""
    return max(data.rfind(b"\n"), data.rfind(b"\r", 0, max(len(data) - 1, 0))) + 1


def _frame_quoted(
    data: bytes, end: int, delimiter: bytes, num_columns: int, *, is_last: bool
) -> Iterator[tuple[Records, int]]:
    """Records and the position behind them, up to one that is not complete."""
    loose, strict, plain = _loose(delimiter), _strict(delimiter), _plain(delimiter)
    begin = position = 0
    while position < end:
        quote = data.find(b'"', position, end)
        if quote < 0:
            position = end
            break
        position = max(data.rfind(b"\n", position, quote), data.rfind(b"\r", position, quote), position - 1) + 1
        run = plain.match(data, position, end)
        if run and run.end() > position:
            position = run.end()
            continue
        found = loose.match(data, position, end)
        if found is None and not is_last:
            lines = _lines(data, position, end)
            if len(lines) <= MAX_RECORD_LINES:
                break
        elif found is None:
            lines = _lines(data, position, end)
        else:
            lines = _lines(data, position, found.end(), most=MAX_RECORD_LINES + 1)
            if len(lines) == 1 or _is_sound(
                lines, strict.fullmatch(data, position, found.end()), delimiter, num_columns
            ):
                position = found.end()
                continue
        lines = lines[:MAX_RECORD_LINES]
        behind = position + sum(map(len, lines))
        yield Records(data[begin:position], tuple(line.rstrip(b"\r\n") for line in lines)), behind
        begin = position = behind
    yield Records(data[begin:position]), position


def _is_sound(lines: list[bytes], strict: object, delimiter: bytes, num_columns: int) -> bool:
    """Whether a record of several lines is what its author meant."""
    if strict is None or len(lines) > MAX_RECORD_LINES:
        return False
    each_is_a_row = all(line.count(delimiter) == num_columns - 1 for line in lines)
    return not each_is_a_row or (num_columns - 1) * (len(lines) - 1) < LEAST_EVIDENCE


def _lines(data: bytes, begin: int, end: int, most: int = MAX_RECORD_LINES + 1) -> list[bytes]:
    """The lines of a stretch with their line ends, at most so many."""
    lines: list[bytes] = []
    while begin < end and len(lines) < most:
        found = LINE_END.search(data, begin, end)
        behind = found.end() if found else end
        lines.append(data[begin:behind])
        begin = behind
    return lines


def _loose(delimiter: bytes) -> re.Pattern[bytes]:
    """A record as the parser reads it: text may follow a closing quote."""
    return _record(delimiter, rb'"(?:[^"]++|"")*+"[^%b\r\n]*+')


def _strict(delimiter: bytes) -> re.Pattern[bytes]:
    """A record in which a delimiter or the end of the line follows each closing quote."""
    return _record(delimiter, rb'"(?:[^"]++|"")*+"')


def _plain(delimiter: bytes) -> re.Pattern[bytes]:
    """As many records as there are of a single line with sound quotes: nearly all."""
    mark = re.escape(delimiter)
    field = rb'(?:"(?:[^"\r\n]++|"")*+"|[^"%b\r\n]*+)' % mark
    return re.compile(rb"(?:%b(?:%b%b)*+(?:\r\n|\n|\r))*+" % (field, mark, field))


def _record(delimiter: bytes, quoted: bytes) -> re.Pattern[bytes]:
    mark = re.escape(delimiter)
    field = rb'(?:%b|[^"%b\r\n][^%b\r\n]*+|)' % (quoted.replace(b"%b", mark), mark, mark)
    return re.compile(rb"%b(?:%b%b)*+(?:\r\n|\n|\r|\Z)" % (field, mark, field))


def _check_length(num_bytes: int) -> None:
    if num_bytes > MAX_RECORD_BYTES:
        raise RecordTooLongError(f"a row is longer than {MAX_RECORD_BYTES >> 20} MB")
