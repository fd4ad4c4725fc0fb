"""The file of tuned settings: what is different from the configuration, what it was chosen by, and its checksum."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from artefacts.config import ConfigError, nested
from artefacts.files import replace_text
from evaluation.render.formats import difference_text, figure
from evaluation.tuning import Tuning
from training.search_space import shown
from twinspire.ablation_config import FIXED
from twinspire.load_config import EXTENDS, merged

_CHECKSUM = re.compile(r"^# checksum: ([0-9a-f]+)\n", re.MULTILINE)


def refuse_edited(path: Path) -> None:
    """Refuses to overwrite a file that was not written here, or was changed since.

    Raises:
        ConfigError: It is such a file.
    """
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    found = _CHECKSUM.search(text)
    if found is None or found[1] != _checksum(_CHECKSUM.sub("", text)):
        how = "was not written by `twinspire tune`" if found is None else "was changed since `twinspire tune` wrote it"
        raise ConfigError(f"{path} {how}; give --force to overwrite it, or --out with another file")


def write_tuned(path: Path, tuning: Tuning, config: Path, overrides: Sequence[str]) -> None:
    """Writes the settings of the best trial, as a file that extends the configuration.

    Args:
        path: The file.
        tuning: The trials.
        config: File of the configuration.
        overrides: `key=value` of the command line that all trials had, which are settings too.
    """
    given = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in overrides)}
    kept = {key: value for key, value in given.items() if key.partition(".")[0] not in FIXED}
    changed = {key: value for key, (_, value) in tuning.changes.items()}
    settings = merged(nested(kept), nested(changed))
    base = os.path.relpath(config.resolve(), path.resolve().parent)
    body = yaml.safe_dump({EXTENDS: base, **settings}, sort_keys=False, allow_unicode=True)
    lines = "".join(f"# {line}\n" for line in _provenance(tuning, config.name))
    text = f"{lines}{body}"
    replace_text(path, f"# checksum: {_checksum(text)}\n{text}")


def _provenance(tuning: Tuning, config: str) -> list[str]:
    own, best = tuning.trials[0], tuning.trials[tuning.best]
    num_ended = sum(one.outcome != "finished" for one in tuning.trials)
    return [
        f"Settings that `twinspire tune` chose for {tuning.dataset}: what is different from {config}.",
        f"Chosen by {tuning.metric} of new items on the {tuning.validation_days} days before {tuning.as_of} (as_of);",
        "no later day was read.",
        f"  own values (trial 0)   {figure(own.recall)}",
        f"  these (trial {best.number})".ljust(25) + f"{figure(best.recall)}, difference "
        f"{difference_text(tuning.difference)}",
        f"  of {len(tuning.trials)} trials, {num_ended} pruned or diverged; {tuning.difference.num_users:,} users, "
        f"{tuning.level:.2%} interval; study {tuning.study}",
        *(f"  {key}: {shown(before)} -> {shown(after)}" for key, (before, after) in tuning.changes.items()),
        "Once changed by hand, the file does not fit its checksum, and is not overwritten without --force.",
    ]


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
