"""The step `second_look`: lists of days that the fit does not know, and the net that ranks their candidates.

B users of the days, N items of the catalogue, k places of a list.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from artefacts import console, steps
from artefacts.files import json_text
from artefacts.paths import RunPaths
from evaluation import choice, second_looks, validation_days
from serving.config import SecondLookSections
from serving.retrieval.ranking import padding
from serving.second_look import files, net, retriever
from training.second_look_lists import Lists, WindowLists, facts_of
from training.second_look_net import fit_net

LISTS, STORY = "lists.npz", "story.json"
FOLDS = 3
"""Parts of the users; the lists of each are ranked by a net that was fitted on the others."""
NUM_LOOKED_AT = 20_000
"""Candidates on which it is counted what moves scores."""


def fit_second_look(sections: SecondLookSections, paths: RunPaths, *, earlier: RunPaths | None = None) -> str:
    """Fits the net on lists of days that the towers behind them do not know; returns one line of outcome.

    What is chosen to be served is chosen on the same days: for that the lists of each third of the users are ranked
    by a net that has not seen them.

    Args:
        sections: What the step reads of the configuration.
        paths: Of the day.
        earlier: The fit that the day's is a warm start from, whose own lists are fitted on, too; None where the day's
            own fit held days out.
    """
    look = sections.look
    window = _window(sections, paths, earlier)
    with steps.fresh_folder(paths.second_look) as folder:
        if window is None:
            return _none(folder, "no days are held out (training.validation_days)")
        of_window = WindowLists.of(sections, paths, paths if earlier is None else earlier, window)
        fresh = of_window.lists()
        kept = [] if earlier is None else _nights_of(earlier, of_window.names)
        nights = kept[: look.nights - 1]
        few = f"fewer than {choice.LEAST_USERS} users met something that was in their lists since {window.first_day}"
        if len(np.unique(fresh.users)) < choice.LEAST_USERS:
            if earlier is None or not (earlier.second_look / files.SERVED).exists() or not kept:
                return _none(folder, few)
            _save_nights(folder, kept, of_window.names)
            before = earlier.second_look / files.SERVED
            as_before, report = net.Net.load(before / files.NET), files.read_report(before)
            _parts(sections, paths, as_before, report).save(folder / files.SERVED)
            return f"that of {earlier.as_of} stays: {few}"
        lists = Lists.together([fresh, *nights])
        with console.progress("second look", total=FOLDS + 1) as advance:
            ranked = _ranked(of_window, fresh, nights, k=max(max(sections.ks), look.depth), advance=advance)
            fitted = fit_net(lists, of_window.names, look, seed=sections.seed)
            advance(1)
        ranked.save(folder)
        _save_nights(folder, [fresh, *nights], of_window.names)
        num_users = len(np.unique(lists.users))
        counted = _counted(fitted, lists, seed=sections.seed)
        names = tuple(of_window.retrievers)
        report = files.SecondLookReport(names, look.depth, look.history, len(lists), num_users, counted)
        _parts(sections, paths, fitted, report).save(folder / files.SERVED)
    most = ", ".join([*counted][:3])
    return f"{len(lists):,} lists of {num_users:,} users since {window.first_day}; what counts most: {most}"


def _none(folder: Path, why: str) -> str:
    (folder / STORY).write_text(json_text({"why": why}))
    return f"none: {why}"


def _parts(
    sections: SecondLookSections, paths: RunPaths, fitted: net.Net, report: files.SecondLookReport
) -> files.SecondLookParts:
    """What goes into the bundle: the net, and what is known of the day's items."""
    statistics, groups = facts_of(paths, paths, paths.as_of, sections.item_category)
    return files.SecondLookParts(fitted, statistics, groups, report)


def _window(sections: SecondLookSections, paths: RunPaths, earlier: RunPaths | None) -> validation_days.Window | None:
    """The days that the towers behind the lists do not know."""
    seed, most_users = sections.seed, sections.look.most_users
    if earlier is None:
        return validation_days.held_out_window(paths, seed=seed, most_users=most_users)
    return validation_days.window_since(earlier, paths, seed=seed, most_users=most_users)


def _ranked(
    of_window: WindowLists, fresh: Lists, nights: list[Lists], *, k: int, advance: Callable[[int], None]
) -> second_looks.SecondLooks:
    """The candidates of all users, ranked by nets that were fitted on the lists of other users."""
    window, look, seed = of_window.window, of_window.look, of_window.seed
    num_users = len(window.users)
    fold_of = np.random.default_rng(seed).permutation(num_users) % FOLDS
    found = {mode: padding(num_users, k)[0] for mode in (False, True)}
    for fold in range(FOLDS):
        others = Lists.together([fresh.of(fold_of[fresh.users] != fold), *nights])
        fitted = fit_net(others, of_window.names, look, seed=seed)
        ranking = retriever.SecondLook(of_window.retrievers, fitted, of_window.facts, look.depth, look.history)
        own = np.flatnonzero(fold_of == fold)
        for mode, rows in found.items():
            users = replace(window.users.of(own), exclude_known=mode)
            rows[own] = ranking.retrieve(users, k)[0]
        advance(1)
    return second_looks.SecondLooks(window.user_rows, found[False], found[True])


def _counted(fitted: net.Net, lists: Lists, *, seed: int) -> dict[str, float]:
    """By how much each input moves scores on average, largest first."""
    some = np.random.default_rng(seed).permutation(len(lists.inputs))[:NUM_LOOKED_AT]
    moved = np.abs(fitted.counted(lists.inputs.of(some))).mean(axis=0).tolist()
    found = dict(zip([*fitted.names, "history"], moved, strict=True))
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _save_nights(folder: Path, nights: list[Lists], names: tuple[str, ...]) -> None:
    (folder / STORY).write_text(json_text({"names": names, "nights": len(nights)}))
    for number, lists in enumerate(nights):
        lists.save(folder / f"{number}.{LISTS}")


def _nights_of(earlier: RunPaths, names: tuple[str, ...]) -> list[Lists]:
    """Lists that an earlier second look was fitted on, the latest first; none where their inputs were others."""
    story = earlier.second_look / STORY
    kept = json.loads(story.read_text()) if story.exists() else {}
    if kept.get("names") != [*names]:
        return []
    return [Lists.load(earlier.second_look / f"{number}.{LISTS}") for number in range(kept["nights"])]
