"""Trials of `twinspire tune` as a table on a terminal and as a page: `tune.json` and `tune.html`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.render.formats import difference_text, figure
from evaluation.render.html import template
from evaluation.render.plots import LINES, TEXT, svg
from evaluation.render.table import print_rows
from evaluation.report import to_json
from evaluation.tuning import FILE, Trial, Tuning

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

PAGE = "tune.html"


def write_tuning(tuning: Tuning, folder: Path) -> Path:
    """Writes `tune.json` and the self-contained `tune.html` into a folder; returns the path of the page."""
    (folder / FILE).write_text(to_json(tuning), encoding="utf-8")
    (folder / PAGE).write_text(tuning_page(tuning), encoding="utf-8")
    return folder / PAGE


def tuning_page(tuning: Tuning) -> str:
    """The page of a study: what came of it, its trials, and the importance of each key."""
    return template("tuning.html.j2").render(tuning=of_page(tuning))


def of_page(tuning: Tuning) -> dict[str, Any]:
    """What the section of a page about a study shows."""
    headings, rows = trial_rows(tuning)
    drawings = [("best validation recall of each trial", _recall_by_trial(tuning))]
    if tuning.importance:
        drawings.append(("importance of each key", _importance_bars(tuning)))
    return {
        "dataset": tuning.dataset,
        "as_of": tuning.as_of,
        "conclusion": conclusion(tuning),
        "headings": headings,
        "rows": rows,
        "best": tuning.best,
        "drawings": drawings,
        "num_finished": sum(one.outcome == "finished" for one in tuning.trials),
    }


def conclusion(tuning: Tuning) -> str:
    """What came of the trials, in a sentence or two."""
    own, best = tuning.trials[0], tuning.trials[tuning.best]
    days = f"the {tuning.validation_days} days before {tuning.as_of}"
    of_own = f"{tuning.metric} of new items on {days} is {figure(own.recall)} with the configuration's own values"
    if best is own:
        return f"the configuration's own values stay: {of_own}, and no other trial has more"
    found = (
        f"{figure(best.recall)} with those of trial {best.number}, the best of {len(tuning.trials)}; difference "
        f"{difference_text(tuning.difference)}, {tuning.difference.num_users:,} users, {tuning.level:.2%} interval"
    )
    if tuning.is_better:
        return f"trial {best.number} is better: {of_own}, and {found}"
    return f"the configuration's own values stay: {of_own}, and {found}: no more than noise"


def print_tuning(tuning: Tuning, console: Console) -> None:
    """Prints the trials, the best first, and the importance of each key."""
    headings, rows = trial_rows(tuning)
    # Keys of which all trials have the same are last, and so are those that matter least.
    ranks = [0, 0, 20, 21, *range(1, len(headings) - 3)]
    print_rows(console, f"{tuning.dataset}: trials, best first", headings, rows, num_text=1, ranks=ranks)
    if tuning.importance:
        found = ", ".join(f"{key} {share:.0%}" for key, share in tuning.importance.items())
        console.print(f"\nimportance: {found}", markup=False, highlight=False, soft_wrap=False)


def trial_rows(tuning: Tuning) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each trial: finished ones first, by recall, then the others."""
    keys = [*tuning.importance, *(key for key in tuning.trials[0].values if key not in tuning.importance)]
    trials = sorted(tuning.trials, key=lambda one: (one.outcome != "finished", -one.recall if one.recalls else 0.0))
    # The last part of a key names it.
    headings = [
        "trial",
        tuning.metric,
        "epoch",
        "seconds",
        *(key.rpartition(".")[2].replace("_", "\n") for key in keys),
    ]
    return headings, [[*_told(one), *(_short(one.values[key]) for key in keys)] for one in trials]


def _told(trial: Trial) -> list[str]:
    name = f"{trial.number}, own values" if not trial.number else str(trial.number)
    outcome = "" if trial.outcome == "finished" else f", {trial.outcome}"
    epochs = f"{trial.epoch} of {len(trial.recalls)}" if trial.recalls else ""
    return [f"{name}{outcome}", figure(trial.recall), epochs, f"{trial.seconds:.0f}"]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _recall_by_trial(tuning: Tuning) -> str:
    """A dot for each trial, hollow where it did not come to its end, and the best recall so far as a line."""
    from matplotlib.ticker import MaxNLocator

    finished = [one for one in tuning.trials if one.outcome == "finished"]
    others = [one for one in tuning.trials if one.outcome != "finished" and one.recalls]

    def paint(axes: Axes) -> None:
        best_so_far = [max(one.recall for one in finished[: place + 1]) for place in range(len(finished))]
        axes.step([one.number for one in finished], best_so_far, where="post", color=LINES[0], linewidth=1.2)
        axes.plot(
            [one.number for one in finished], [one.recall for one in finished], "o", color=LINES[0], label="finished"
        )
        axes.plot(
            [one.number for one in others],
            [one.recall for one in others],
            "o",
            color=LINES[1],
            markerfacecolor="none",
            label="pruned or diverged",
        )
        axes.set_xlabel("trial; 0 has the configuration's own values")
        axes.set_ylabel(tuning.metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8, frameon=False, labelcolor=TEXT, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

    return svg(paint, "trials", height_inches=2.8)


def _importance_bars(tuning: Tuning) -> str:
    keys = list(tuning.importance)[::-1]

    def paint(axes: Axes) -> None:
        axes.barh(range(len(keys)), [tuning.importance[key] for key in keys], color=LINES[0], height=0.6)
        axes.set_yticks(range(len(keys)), keys)
        axes.set_xlim(left=0)
        axes.set_xlabel("share of importance (PED-ANOVA)")

    return svg(paint, "importance", height_inches=0.9 + 0.3 * len(keys))
