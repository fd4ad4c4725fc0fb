"""A split small enough to read, tables of a tiny shop, and comparisons of arms by hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.paths import RunPaths
from evaluation.report import (
    ArmFigures,
    Comparison,
    Difference,
    Latency,
    LayerCheck,
    OffPolicyRow,
    Problem,
    Report,
    UserExample,
)
from evaluation.split import Split, make_split
from evaluation.statistics import Interval, Verdict
from features.sources.events import EVENTS_SCHEMA

CUT = dt.datetime(2020, 1, 10, tzinfo=dt.UTC)
KS = (10, 50, 100)
SLICES = {"history length": ("0", "1 to 9"), "popularity": ("head", "tail")}
OF_A = 0.0804
ITEMS = ["a", "b", "c", "d", "e"]

SHOP_CUT = dt.date(2024, 1, 8)
SHOP_ITEMS = ["apple", "bread", "cheese", "drill", "nails"]
# (day of January, hour, user, item)
SHOP_EVENTS = [
    (1, 9, "ann", "apple"),
    (1, 9, "ann", "bread"),
    (2, 9, "bob", "drill"),
    (3, 9, "ann", "apple"),
    (7, 23, "cid", "bread"),
    (8, 0, "ann", "cheese"),
    (8, 12, "bob", "nails"),
    (9, 9, "ann", "apple"),
    (10, 9, "dan", "apple"),
    (10, 9, "dan", "nails"),
    (12, 9, "bob", "drill"),
]


def events_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """A row per (user, item, time)."""
    users, items, times = zip(*rows, strict=True)
    stamps = pd.to_datetime(pd.Series(times), format="ISO8601", utc=True).astype("datetime64[us, UTC]")
    return pd.DataFrame({"user_id": users, "item_id": items, "timestamp": stamps, "value": 1.0})


@pytest.fixture
def events() -> pd.DataFrame:
    return events_of(
        ("ann", "a", "2020-01-01"),
        ("ann", "a", "2020-01-04"),
        ("ann", "b", "2020-01-09T23:59:59.999999"),  # the last microsecond before the cut
        ("ann", "b", "2020-01-10"),  # the first one of the window
        ("ann", "c", "2020-01-11"),
        ("ann", "c", "2020-01-12"),
        ("ann", "d", "2020-01-13"),  # the first microsecond behind a window of three days
        ("bob", "b", "2020-01-05"),
        ("bob", "gone", "2020-01-05"),
        ("cat", "e", "2020-01-12T23:59:59.999999"),
        ("cat", "gone", "2020-01-11"),
        ("cat", "gone", "2020-01-12"),
        ("dan", "gone", "2020-01-11"),
        ("eve", "a", "2020-01-13"),
    )


@pytest.fixture
def split(events: pd.DataFrame) -> Split:
    return make_split(events, ITEMS, cut=CUT, window_days=3)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """Tables of a tiny shop by hand: four users, five items, two weeks."""
    paths = RunPaths(tmp_path / "shop", SHOP_CUT)
    (paths.tables / "events").mkdir(parents=True)
    for day in sorted({day for day, *_ in SHOP_EVENTS}):
        rows = [row for row in SHOP_EVENTS if row[0] == day]
        table = pa.table(
            {
                "user_id": [user for _, _, user, _ in rows],
                "item_id": [item for *_, item in rows],
                "timestamp": [dt.datetime(2024, 1, day, hour, tzinfo=dt.UTC) for _, hour, *_ in rows],
            }
        )
        filled = [
            table.column(field.name).cast(field.type)
            if field.name in table.column_names
            else pa.nulls(len(rows), field.type)
            for field in EVENTS_SCHEMA
        ]
        pq.write_table(pa.table(filled, schema=EVENTS_SCHEMA), paths.tables / "events" / f"2024-01-{day:02}.parquet")
    items = {
        "item_id": SHOP_ITEMS,
        "item_name": ["Apple", "Bread", None, "Drill", "Nails"],
        "category": ["food", "food", "food", "tools", None],
    }
    pq.write_table(pa.table(items), paths.tables / "items.parquet")
    pq.write_table(pa.table({"user_id": ["ann", "bob", "cid", "dan"]}), paths.tables / "users.parquet")
    (paths.tables / "manifest.json").write_text("{}")
    return paths


def around(mean: float, half: float, num_users: int = 2300) -> Interval:
    return Interval(mean, mean - half, mean + half, num_users)


def figures_of(letter: str, name: str, recall: float) -> ArmFigures:
    """An arm whose recall@100 is `recall`; the others are in proportion."""
    metrics = {f"recall@{k}": around(recall * k / 100, 0.004) for k in KS}
    metrics |= {"ndcg@100": around(recall / 2, 0.002), "mrr": around(recall / 4, 0.001)}
    return ArmFigures(
        letter=letter,
        name=name,
        source=f"bundle 20200110T000000Z of the shop, retriever {name}",
        metrics=metrics | {"novelty@100": around(12.5, 0.2)},
        lists={"coverage@100": 0.25, "gini@100": 0.875},
        recall_curve=tuple(recall * k / 100 for k in range(1, 101)),
        slices={about: {name: around(recall, 0.01, 400) for name in names} for about, names in SLICES.items()},
    )


@pytest.fixture
def against_a() -> Callable[..., Comparison]:
    """Makes an arm compared with A; in `lost` slices it has .05 less, in `won` ones .02 more, else open."""

    def make(
        letter: str,
        name: str,
        interval: tuple[float, float, float],
        decision: str,
        *,
        p: float,
        reasons: tuple[str, ...] = ("a reason",),
        lost: tuple[str, ...] = (),
        won: tuple[str, ...] = (),
    ) -> Comparison:
        found = Difference(Interval(*interval, num_users=2300), p / 2, p)
        in_slice = dict.fromkeys(lost, Difference(around(-0.05, 0.02, 120), 0.001, 0.004))
        in_slice |= dict.fromkeys(won, Difference(around(0.02, 0.0125, 280), 0.001, 0.006))
        open_ = Difference(around(0.001, 0.01, 400), 0.6, 1.0)
        return Comparison(
            letter=letter,
            name=name,
            reference="A",
            metrics={key: found for key in (*(f"recall@{k}" for k in KS), "ndcg@100", "mrr", "novelty@100")},
            slices={
                about: {group: in_slice.get(f"{about}: {group}", open_) for group in groups}
                for about, groups in SLICES.items()
            },
            lost_slices=lost,
            overlap=0.625,
            rank_biased_overlap=0.5,
            smallest_detectable=0.0018,
            users_needed=5200,
            users_for_one_percent=12000,
            differing=(UserExample("ann", 1.0, 0.5, 0.25, ("green tea",), ("rice",), 2),),
            verdict=Verdict(decision, reasons),  # type: ignore[arg-type]
        )

    return make


@pytest.fixture
def report_of() -> Callable[..., Report]:
    """Makes a comparison of A, whose recall@100 is .0804, with others, whose recall follows from their difference."""

    def make(*comparisons: Comparison, **changes: object) -> Report:
        others = (figures_of(at.letter, at.name, OF_A + at.metrics["recall@100"].interval.mean) for at in comparisons)
        report = Report(
            dataset="shop",
            protocol="after-cut",
            task="new to the user",
            cuts=("2020-01-10T00:00:00+00:00",),
            window_days=7,
            num_users=2300,
            num_all_users=2464,
            num_relevant=5012,
            num_items=92000,
            num_unknown_relevant=31,
            num_unknown_items=12,
            ks=KS,
            metric="recall@100",
            alpha=0.05,
            margin=0.0,
            num_samples=1000,
            seed=7,
            arms=(figures_of("A", "towers", OF_A), *others),
            comparisons=comparisons,
        )
        return replace(report, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def full_report(against_a: Callable[..., Comparison], report_of: Callable[..., Report]) -> Report:
    """A comparison with everything in it: B wins, but not among users without a history; C loses."""
    from evaluation.report import Estimate

    wins = against_a(
        "B", "EASE", (0.0015, 0.0002, 0.0030), "ship", p=0.012, lost=("history length: 0",), won=("popularity: tail",)
    )
    loses = against_a("C", "<b>$x$ & co", (-0.03, -0.0325, -0.0275), "do not ship", p=0.00005)
    problems = (Problem("unknown item", 1200, (3, 8)), Problem("user twice", 1, (2001,)))
    report = report_of(
        wins,
        loses,
        layers=(
            LayerCheck("A", "exact", "index", 2300, 0.75, 0.999, around(-0.0001, 0.0002), None),
            LayerCheck("B", "index", "server", 50, 0.9, 0.95, around(0.01, 0.02, 40), "5 users get other lists", True),
        ),
        off_policy=(OffPolicyRow("B", "SNIPS", Estimate(0.05, 0.04, 0.0625, 810.4, 0.125, 20000)),),
        off_policy_problems=(Problem("propensity above 1", 2, (5, 9)),),
        notes=("The lists of B were read from a file.",),
    )
    a, b, c = report.arms
    a = replace(a, latency=Latency(0.5, 1.25, 200, "this process"))
    b = replace(b, latency=Latency(8.0, 31.0, 200, "HTTP"), problems=problems)
    return replace(report, arms=(a, b, c))
