"""The page of docs with the figures: replaces the text between its markers."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from bare import Bare
from server import Load

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
ANN = ("retrieval",)


@dataclass
class Figures:
    """Of one catalogue."""

    name: str
    bare: Bare
    alone: dict[str, tuple[float, float]]
    """Name -> microseconds of a part of a request: called again and again, and after a search."""
    memory_bytes: int = 0
    start_seconds: float = 0.0
    loads: dict[str, list[Load]] = field(default_factory=dict)
    half: dict[str, Load] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)


def write_report(path: Path, figures: list[Figures]) -> None:
    """Puts the tables between the page's markers."""
    text = path.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n{tables(figures)}\n{END}{tail}", encoding="utf-8")
    print(tables(figures))


def tables(figures: list[Figures]) -> str:
    """All of it, as Markdown."""
    parts = [f"\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.\n"]
    for one in figures:
        bare = one.bare
        parts.append(
            f"### {one.name}: {bare.num_items:,} items\n\n"
            f"hnswlib alone, one query at a time: **{bare.cpu_us:,.0f} us** of CPU at ef {bare.ef}, recall@100 "
            f"{bare.recall:.3f}. {_alone(one.alone)}. The process has "
            f"{(one.memory_bytes - bare.index_bytes) / 1e6:,.0f} MB in addition to the graph's "
            f"{bare.index_bytes / 1e6:,.0f}; from start to ready {one.start_seconds:.1f} s.\n"
        )
        parts.append(
            "| retriever | connections | requests/s | p50, ms | p99, ms | CPU of a request, us | less bare search |\n"
            "|---|---|---|---|---|---|---|"
        )
        for retriever, loads in one.loads.items():
            for load in [*loads, one.half[retriever]]:
                label = str(load.connections) if load.rate is None else f"{load.connections}, at half of the most"
                parts.append(
                    f"| {retriever} | {label} | {load.per_second:,.0f} | {load.p50_ms:.2f} | {load.p99_ms:.2f} | "
                    f"{load.cpu_us:,.0f} | {load.cpu_us - bare.cpu_us:,.0f} |"
                )
        names = list(dict.fromkeys(name for stages in one.stages.values() for name in stages))
        parts.append(f"\n| retriever | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
        for retriever, stages in one.stages.items():
            cells = [f"{stages[name]:,.0f}" if name in stages else "" for name in names]
            parts.append(f"| {retriever} | {' | '.join(cells)} |")
        parts.append("\nStages are wall-clock means over all of these requests, microseconds.\n")
    return "\n".join(parts)


def _alone(costs: dict[str, tuple[float, float]]) -> str:
    parts = [f"{name} one user takes {hot:,.0f} us, {cold:,.0f} after a search" for name, (hot, cold) in costs.items()]
    return "In one process " + "; ".join(parts)
