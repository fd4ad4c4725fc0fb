"""What do the words of a comparison mean? For who reads its page for the first time."""

from __future__ import annotations

from typing import Final

from evaluation.ab.report import ABReport, Layer, Protocol

PROTOCOLS: Final[dict[Protocol, str]] = {
    "after-cut": "Everything before the cut is known to every arm; what happens in the window after it is to be found.",
    "rolling": "Several cuts, one after the other: before each, every arm is made anew of what was known then. A user "
    "counts once, with the mean over the windows that have a figure.",
    "leave-last-out": "The last item of each user is to be found from all that came before it.",
    "given": "What was known and what is to be found were given with the comparison.",
}
LAYERS: Final[dict[Layer, str]] = {
    "exact": "exact search over all items: what the model itself is worth",
    "index": "an approximate index over the same vectors: what the index loses",
    "server": "the running server, asked like any client",
}
ESTIMATORS: Final = {
    "IPS": "inverse propensity scoring: each logged reward counts as often as the arm would have shown the item, over "
    "how often it was shown; right on average, wide where the log seldom shows what the arm would",
    "SNIPS": "the same, over the sum of the weights instead of the number of rows: narrower, for a small bias",
    "doubly robust": "a model of rewards, corrected by IPS where it errs: right on average if either of them is",
}
_METRICS: Final = {
    "recall": "hits among the first k, over all that is relevant to the user (more than k included)",
    "ndcg": "hits weighted by 1 / log2(place + 1), over the best possible list of min(k, relevant) items",
    "hit_rate": "share of users with at least one hit among the first k",
    "precision": "hits among the first k, over k",
    "mrr": "mean of 1 / place of the first hit, 0 without one in the list",
    "value_recall": "what the hits among the first k are worth, over what all relevant items are worth",
    "novelty": "how seldom the listed items are bought: mean of -log2 of an item's share of the events before the cut; "
    "describes lists, and is neither better nor worse",
    "diversity": "share of the pairs of listed items that are of different categories; describes lists",
    "head_share": "share of the listed items that are among the most popular ones, which have a third of all events; "
    "describes lists",
    "coverage": "share of the catalogue that is among anyone's first k",
    "gini": "how unevenly items are listed: 0 where all are alike, towards 1 where all lists hold the same few",
}


def meanings(report: ABReport) -> dict[str, str]:
    """What the metrics of a report are, in its order: such as `recall@k` -> words."""
    names = [name.partition("@") for name in (*report.arms[0].metrics, *report.arms[0].lists)]
    found = {name + (f"{at}k" if at else ""): _METRICS.get(name) for name, at, _ in names}
    return {name: meaning for name, meaning in found.items() if meaning}
