"""Secrets: a configuration names them as ${NAME}, and their values are read only where they are used.

`${NAME}` is the environment variable NAME, or what the file holds that the variable NAME_FILE names, which must be
readable by its owner alone. So no copy of a configuration, digest, record or log has a value; `redacted` takes out what
an error message of a library quotes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artefacts.config import ConfigError
from artefacts.files import json_text

HIDDEN = "(hidden)"
OTHERS = 0o077
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|credentials?|(?:access|api|account|private|shared)[_-]?key)"
SECRET_NAME = re.compile(rf"{_NAME}(?:_content)?$", re.IGNORECASE)
# `name=value` of a connection string or an option, and `scheme://user:value@host`.
_ASSIGNED = re.compile(rf"({_NAME}[\"']?\s*=\s*)(\"[^\"]*\"|[^\s,;&\"']+)", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(://[^\s/:@]*:)([^\s/@]+)(?=@)")
# Values that were read in this process.
_read: set[str] = set()


def find(name: str) -> str | None:
    """The value of a secret; None where neither NAME nor NAME_FILE is set.

    Raises:
        ConfigError: Both are set, the file cannot be read or is readable by others, or the value is empty.
    """
    value, file = os.environ.get(name), os.environ.get(f"{name}_FILE")
    if file is not None:
        if value is not None:
            raise ConfigError(f"the environment variables {name} and {name}_FILE are both set; set one of them")
        value = _of_file(name, Path(file))
    if value is not None:
        _read.add(value)
    return value


def resolved(value: Any) -> Any:
    """A value of a configuration with what its `${NAME}` stand for, in mappings and lists too.

    Raises:
        ConfigError: One of them is not set.
    """
    if isinstance(value, Mapping):
        return {key: resolved(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(part) for part in value]
    return REFERENCE.sub(lambda match: _needed(match[1]), value) if isinstance(value, str) else value


def resolved_connection(text: str) -> str:
    """The same for a connection string of Feast, `host:port,name=value,...`; a value may have any characters.

    Feast cuts it at commas and reads values as JSON where they are: a password `1e5` would become a number.
    """
    parts = []
    for part in text.split(","):
        name, separator, value = part.partition("=")
        if separator and REFERENCE.search(value):
            parts.append(f"{name}={json_text(resolved(value))}".replace(",", "\\u002c"))
        else:
            parts.append(resolved(part))
    return ",".join(parts)


def check_none_in_clear(value: Any, *, key: str) -> None:
    """Refuses a value of the configuration that holds a secret itself, copies of which would lie in every bundle.

    Args:
        value: Text, or a mapping or list of values.
        key: Where it is in the configuration, for the message.

    Raises:
        ValueError: It does; the message does not have it.
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            is_clear = not isinstance(part, str) or REFERENCE.fullmatch(part) is None
            if SECRET_NAME.search(name) and is_clear:
                raise ValueError(_refusal(f"{key}.{name}", f"{name}: "))
            check_none_in_clear(part, key=f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for part in value:
            check_none_in_clear(part, key=key)
    elif isinstance(value, str):
        for pattern in (_ASSIGNED, _IN_ADDRESS):
            for start, found in pattern.findall(value):
                if REFERENCE.fullmatch(found) is None:
                    raise ValueError(_refusal(key, start))


def redacted(text: str) -> str:
    """A message without the values of secrets: of those read here, and of anything that is named like one."""
    for value in sorted(_read, key=len, reverse=True):
        for shown in (value, json_text(value)[1:-1], repr(value)[1:-1]):
            text = text.replace(shown, HIDDEN) if shown else text
    text = _ASSIGNED.sub(lambda match: match[0] if REFERENCE.match(match[2]) else match[1] + HIDDEN, text)
    return _IN_ADDRESS.sub(lambda match: match[0] if REFERENCE.match(match[2]) else match[1] + HIDDEN, text)


def _needed(name: str) -> str:
    value = find(name)
    if not value:
        found = "are not set" if value is None else "give an empty text"
        raise ConfigError(
            f"the configuration names ${{{name}}}, and the environment variables {name} and {name}_FILE {found}; set "
            f"{name} to the secret, or {name}_FILE to a file of mode 600 that holds it"
        )
    return value


def _of_file(name: str, file: Path) -> str:
    try:
        mode = file.stat().st_mode & 0o777
        if mode & OTHERS:
            raise ConfigError(
                f"{file}, which {name}_FILE names, has mode {mode:o}, expected 600: others may read it; run "
                f"`chmod 600 {file}`, and change the secret if somebody may have read it"
            )
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}, which {name}_FILE names, cannot be read as text: {error}") from None


def _refusal(key: str, start: str) -> str:
    return (
        f"{key} holds a secret in clear, which every bundle and record would have a copy of; write {start}${{NAME}}, "
        "with a name of your choice, and give the secret in the environment variable NAME, or in a file of mode 600 "
        "that the variable NAME_FILE names"
    )
