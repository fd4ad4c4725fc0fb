"""Fits every method on and off in the two worlds of its pair, and puts the figures into docs/world_pairs.md.

python -m benchmarks.world_pairs
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.world_pairs.pairs import SIDES, Outcome, load_pairs, measure
from evaluation.render.formats import difference_text, figure, interval_text
from evaluation.render.markdown import markdown_table, replace_between
from twinspire.job import code_version
from twinspire.trained_arm import Invocation

PAGE, BEGIN, END = Path("docs/world_pairs.md"), "<!-- world pairs: begin -->", "<!-- world pairs: end -->"


def main() -> None:
    """Measures what is not measured yet; a killed run continues where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=None, help="of every world; those of the pairs if left out")
    parser.add_argument(
        "--num-seeds", type=int, default=None, help="fits of either arm; those of the pairs if left out"
    )
    parser.add_argument("--only", default="", help="names of pairs, with commas between them; all if left out")
    parser.add_argument("--runs", type=Path, default=Path("runs/world_pairs"), help="folder of worlds and fits")
    parser.add_argument("--md", type=Path, default=PAGE, help="Markdown file that gets the figures")
    options = parser.parse_args()
    pairs = load_pairs()
    names = options.only.split(",") if options.only else list(pairs)
    if unknown := set(names) - set(pairs):
        parser.error(f"no pair {min(unknown)!r}; they are: {', '.join(pairs)}")
    run = Invocation(dt.datetime.now(dt.UTC), code_version())
    found = []
    for name in names:
        for side in SIDES:
            size = {"users": options.users, "num_seeds": options.num_seeds}
            found.append(measure(pairs[name], side, options.runs, run, **size))
            print(f"{name}, {side}: {difference_text(found[-1].difference)}", file=sys.stderr, flush=True)
    text = to_markdown(found, command=" ".join(["python -m benchmarks.world_pairs", *sys.argv[1:]]))
    print(text)
    replace_between(options.md, BEGIN, END, text)


def to_markdown(found: Sequence[Outcome], *, command: str) -> str:
    """The command, one row for each world, and notes."""
    headings = [
        "pair", "method", "world", "users", "figure", "without", "with", "difference", "oracle", "of the oracle",
        "outcome",
    ]  # fmt: skip
    rows = [
        [
            one.pair.name,
            one.pair.settings.method,
            f"{one.side}: {keys_text(one)}",
            f"{one.num_users:,}",
            one.pair.settings.figure,
            interval_text(one.off),
            interval_text(one.on),
            difference_text(one.difference),
            figure(one.oracle),
            f"{one.off.mean / one.oracle:.1%} to {one.on.mean / one.oracle:.1%}",
            outcome_text(one),
        ]
        for one in found
    ]
    notes = {one.pair.name: one.pair.settings.note for one in found if one.pair.settings.note}
    parts = [f"    {command}", markdown_table(headings, rows)]
    if notes:
        parts.append("\n".join(f"- **{name}**: {note}" for name, note in notes.items()))
    return "\n".join(f"{part}\n" for part in parts)


def keys_text(one: Outcome) -> str:
    """The keys in which the two worlds of a pair differ."""
    settings = one.pair.settings
    own = settings.must_help if one.side == SIDES[0] else settings.cannot_help
    return ", ".join(f"`{key}: {value}`" for key, value in own.items())


def outcome_text(one: Outcome) -> str:
    """In a word or two, what the interval shows."""
    if one.harms and one.difference.high < 0:
        return "harms"
    if one.side == SIDES[0]:
        return "helps" if one.helps else "does not help"
    return "harm not excluded" if one.harms else "no harm"


if __name__ == "__main__":
    main()
