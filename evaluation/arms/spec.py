"""Arms as the command line names them.

[NAME=]WHAT[,option=value ...], where WHAT is

current, previous, nightly, 2017-12-01-0f3c9a71, path/to/bundle   a bundle
popularity, repeat, item-knn, ease, als                           a baseline
oracle                                                            on a world, its truth
file:lists.parquet                                                lists of another system
train, train:configs/other.yaml                                   a configuration that is fitted first
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from artefacts.config import ConfigError
from artefacts.paths import RunPaths
from evaluation.baselines import BASELINES
from evaluation.report import ORACLE
from serving.bundles.bundle import CURRENT
from serving.bundles.folder import list_bundles, published, rollback_target
from serving.config import VERSION_PATTERN
from serving.registry import retriever_names

Kind = Literal["bundle", "baseline", "file", "train"]
POINTERS: Final = ("current", "previous", "nightly")
"""Bundles by their role: the published one, the one before it, and the one of each cut's own night."""
OPTIONS: Final[dict[Kind, tuple[str, ...]]] = {
    "bundle": ("retriever", "weight_exponent", "runs"),
    "baseline": (),
    "file": (),
    "train": ("retriever", "weight_exponent", "set"),
}


@dataclass(frozen=True)
class ArmSpec:
    """An arm as it was asked for.

    Attributes:
        name: What tables call it.
        kind: How its lists come about.
        what: A version, pointer or folder; a baseline; a file; a configuration, empty for the command's own.
        retriever: Of a bundle; None takes the configured one.
        weight_exponent: Power of the business values; None takes the index's.
        runs: Folder of runs that a bundle lies in; None for the command's own.
        overrides: `key.sub=value` of a configuration that is fitted.
    """

    name: str
    kind: Kind
    what: str
    retriever: str | None = None
    weight_exponent: float | None = None
    runs: Path | None = None
    overrides: tuple[str, ...] = field(default=())


def parse_arms(texts: Sequence[str]) -> list[ArmSpec]:
    """Reads arms in the order of their letters.

    Raises:
        ConfigError: One cannot be read, or two have one name.
    """
    specs = [parse_arm(text) for text in texts]
    names = [spec.name for spec in specs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two arms are called {twice[0]!r}; give one a name of its own, such as 'mine={twice[0]}'")
    return specs


def parse_arm(text: str) -> ArmSpec:
    """Reads one arm.

    Raises:
        ConfigError: Says what was found and what is expected.
    """
    head, *parts = _split(text)
    name, what = _name_of(head)
    kind, what = _kind_of(what, text)
    options: dict[str, str] = {}
    overrides: list[str] = []
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key not in OPTIONS[kind]:
            known = ", ".join(OPTIONS[kind]) or "(none)"
            raise ConfigError(f"arm {text!r}: option {part!r}, expected some of: {known}, each as option=value")
        if key == "set":
            overrides.append(value)
        elif key in options:
            raise ConfigError(f"arm {text!r}: {key} is given twice")
        else:
            options[key] = value
    return ArmSpec(
        name or text,
        kind,
        what,
        _retriever(options.get("retriever"), text),
        _exponent(options.get("weight_exponent"), text),
        Path(options["runs"]) if "runs" in options else None,
        tuple(overrides),
    )


def _split(text: str) -> list[str]:
    """At commas, but for those in brackets, which belong to a value."""
    return re.split(r",(?![^\[{]*[\]}])", text)


def _name_of(head: str) -> tuple[str, str]:
    named = re.fullmatch(r"([^=:/]+)=(.+)", head)
    return (named[1].strip(), named[2]) if named else ("", head)


def _kind_of(what: str, text: str) -> tuple[Kind, str]:
    if what in POINTERS or re.fullmatch(VERSION_PATTERN, what):
        return "bundle", what
    if what.lower() in (*BASELINES, ORACLE):
        return "baseline", what.lower()
    head, colon, rest = what.partition(":")
    if head == "file" and rest:
        return "file", rest
    if head == "train" and bool(colon) == bool(rest):
        return "train", rest
    if (Path(what) / "manifest.json").exists():
        return "bundle", what
    raise ConfigError(
        f"arm {text!r}: {what!r} is no arm; expected {', '.join(POINTERS)}, a version such as 2017-12-01-0f3c9a71, the "
        f"folder of a bundle, a baseline ({', '.join(BASELINES)}), file:PATH, train or train:CONFIG.yaml"
    )


def _retriever(value: str | None, text: str) -> str | None:
    names = retriever_names()
    if value is None or value in names:
        return value
    raise ConfigError(f"arm {text!r}: retriever is {value!r}, expected one of: {', '.join(names)}")


def _exponent(value: str | None, text: str) -> float | None:
    if value is None:
        return None
    try:
        found = float(value)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise ConfigError(f"arm {text!r}: weight_exponent is {value!r}, expected a number from 0 on")
    return found


def bundle_folder(spec: ArmSpec, paths: RunPaths, cut: dt.date) -> Path:
    """Folder of the bundle that an arm means at a cut.

    Raises:
        ValueError: There is none.
    """
    bundles, what = paths.bundles, spec.what
    if what == "current":
        version = published(bundles)
        if version is None:
            raise ValueError(
                f"arm {spec.name!r}: {bundles / CURRENT} points to no bundle; make one with `twinspire run`"
            )
        return bundles / version
    if what == "previous":
        return bundles / rollback_target(bundles)
    if what == "nightly":
        of_day = [entry.version for entry in list_bundles(bundles) if entry.as_of == cut and entry.problem is None]
        if not of_day:
            raise ValueError(
                f"arm {spec.name!r}: {bundles} has no bundle of {cut}; make the nights with `twinspire backfill`, and "
                "keep them with bundles.keep"
            )
        return bundles / of_day[0]
    return bundles / what if (bundles / what).is_dir() else Path(what)
