"""Reads a configuration: YAML, overrides and validation, with errors that name the nearest valid key."""

from __future__ import annotations

import difflib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from artefacts.config import ConfigError, nested
from artefacts.secrets import SECRET_NAME
from features.config import CompleteJourneySource, LightGcnSource, MovieLensSource, TablesSource
from serving.served import AUTO
from twinspire.config import Config

if TYPE_CHECKING:
    import datetime as dt

_KIND = re.compile(r"dict\[.*\]|constrained-float|bool")
Sections = TypeVar("Sections", bound=BaseModel)
TUNED_SUFFIX = ".tuned.yaml"
"""NAME.tuned.yaml has the tuned settings of NAME.yaml."""
AS_OF, ANY_DAY = "as_of", "1970-01-01"
EXTENDS = "extends"
"""Key of a file that holds only what is different from another one, which it names."""
SOURCES: dict[str, type[BaseModel]] = {
    "complete_journey": CompleteJourneySource,
    "lightgcn": LightGcnSource,
    "movielens": MovieLensSource,
    "tables": TablesSource,
}


def load(path: Path, overrides: Sequence[str] = (), *, last_cut: Callable[[Config], dt.date] | None = None) -> Config:
    """Reads a YAML file, applies `key.sub=value` overrides and validates the result.

    Args:
        path: The YAML file of a dataset, or of what is different from another one (`extends`).
        overrides: As given on the command line; each value is read as YAML.
        last_cut: The day to take for `as_of` where it is not given, by the configuration with any day; None refuses.

    Returns:
        The resolved, frozen configuration.

    Raises:
        ConfigError: The file or an override cannot be read, or a key or value is not valid.
    """
    raw = read_extended(path, expected="a mapping with the keys name, as_of, ingest, ...")
    is_given = raw.get(AS_OF) is not None or any(override.startswith(f"{AS_OF}=") for override in overrides)
    if last_cut is not None and not is_given:
        with_any_day = resolve(Config, raw | {AS_OF: ANY_DAY}, overrides, source=str(path))
        raw[AS_OF] = last_cut(with_any_day)
    return resolve(Config, raw, overrides, source=str(path))


def read_extended(path: Path, *, expected: str) -> dict[str, Any]:
    """Reads a YAML file, and the one that it extends under it, which it names by its path from its own folder.

    Args:
        path: The file.
        expected: What it should hold, for the message.

    Raises:
        ConfigError: A file cannot be read, or extends itself.
    """
    raw, files = read_mapping(path, expected=expected), [path.resolve()]
    while (base := raw.pop(EXTENDS, None)) is not None:
        if not isinstance(base, str):
            raise ConfigError(f"{files[-1]}: {EXTENDS} is {base!r}, expected the name of a YAML file")
        files.append((files[-1].parent / base).resolve())
        if files[-1] in files[:-1]:
            raise ConfigError(f"{path}: extends itself, by way of {' and '.join(file.name for file in files[1:])}")
        raw = merged(read_mapping(files[-1], expected=expected), raw)
    return raw


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a mapping holds with changes, section by section."""
    return {**base} | {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in changes.items()
    }


def with_values(config: Config, values: Mapping[str, Any], *, source: str) -> Config:
    """A configuration with other values of some dotted keys.

    Args:
        config: Resolved.
        values: Dotted key -> value, as JSON has it.
        source: Where they come from, for the message.

    Raises:
        ConfigError: A key or a value is not valid.
    """
    changes = nested(values)
    return resolve(Config, merged(json.loads(config.model_dump_json()), changes), (), source=source)


def resolve(kind: type[Sections], raw: dict[str, Any], overrides: Sequence[str], *, source: str) -> Sections:
    """Applies `key.sub=value` overrides to what a file holds, and validates the result.

    Args:
        kind: The section that it is to be.
        raw: What the file holds; changed in place.
        overrides: As given on the command line; each value is read as YAML.
        source: Where it comes from, for the message.

    Raises:
        ConfigError: An override cannot be read, or a key or value is not valid.
    """
    for override in overrides:
        _apply_override(raw, override)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, kind)}") from None


def read_mapping(path: Path, *, expected: str) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping and gives no key twice.

    Args:
        path: The file.
        expected: What it should hold, for the message.

    Raises:
        ConfigError: The file cannot be read, is not YAML or holds something else.
    """
    try:
        # A stream, of which errors quote no line: it may have a secret.
        raw = yaml.load(io.StringIO(path.read_text(encoding="utf-8")), _UniqueKeys)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; pass --config with one of the files in configs/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds {type(raw).__name__}, expected {expected}")
    return raw


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """What is wrong, key by key, with the nearest valid one; `root` is the model that was validated."""
    # What takes `auto` or a value is tried as both; what is wrong with it as a value says more.
    issues = [issue for issue in error.errors() if issue["loc"][-1:] != (f"literal['{AUTO}']",)]
    return "; ".join(_explain(issue, root) for issue in issues)


def dump(config: Config) -> str:
    """The resolved configuration as YAML that `load` reads back."""
    text: str = yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False)
    return text


class _UniqueKeys(yaml.SafeLoader):
    """Reads YAML and refuses a key that is given twice, of which only the last would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigError(f"--set {override!r}: expected key=value, such as training.epochs=3")
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        # A section that is named and left empty is null.
        node[parent] = {} if node.get(parent) is None else node[parent]
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} holds a value, not a section")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {error}") from None


def _explain(issue: Mapping[str, Any], root: type[BaseModel]) -> str:
    location = [str(part) for part in issue["loc"]]
    # Pydantic names the kind of source, or of value, that it tried as if it were a key.
    where = ".".join(part for part in location if part not in SOURCES and not _KIND.fullmatch(part))
    if issue["type"] != "extra_forbidden":
        return _explain_value(where, issue, root)
    valid = sorted(_keys_at(location[:-1], root))
    near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.0)
    return f"unknown key {where!r}; did you mean {near[0]!r}? Valid here: {', '.join(valid)}"


def _explain_value(where: str, issue: Mapping[str, Any], root: type[BaseModel]) -> str:
    message = issue["msg"].removeprefix("Value error, ")
    match issue["type"]:
        case "model_type" | "model_attributes_type":
            message = f"expected a section with keys, such as {', '.join(_keys_at(list(issue['loc']), root)[:3])}"
        case "tuple_type":
            message = "expected a list"
        case "union_tag_not_found":
            message = f"expected a key `kind` with one of: {', '.join(SOURCES)}"
    is_hidden = isinstance(issue["input"], dict) or any(SECRET_NAME.search(str(part)) for part in issue["loc"])
    found = "" if is_hidden else f" (found {issue['input']!r})"
    return f"{where}: {message}{found}" if where else message


def _keys_at(location: Sequence[str], root: type[BaseModel]) -> list[str]:
    model = root
    for part in location:
        if part in SOURCES:
            model = SOURCES[part]
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        sections = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if len(sections) == 1:
            model = sections[0]
    return list(model.model_fields)
