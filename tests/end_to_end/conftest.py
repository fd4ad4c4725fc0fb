"""A small shop whose structure is known, and what `twinspire run` makes of it on two days."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests import forking
from tests.once import once

Ran = subprocess.CompletedProcess[str]

NUM_USERS, NUM_ITEMS, NUM_DAYS = 60, 120, 40
FIRST_DAY = dt.date(2024, 1, 1)
DAY = FIRST_DAY + dt.timedelta(days=NUM_DAYS - 6)
NEXT_DAY = DAY + dt.timedelta(days=1)
NOW = "2024-03-01"

CONFIG = """
name: corner_shop
as_of: {day}

dataset:
  user_columns:
    country: categorical
    age: numeric
    about: text
  item_columns:
    category: categorical
    brand: [categorical, text]
    description: text
    list_price: numeric
  item_category: category
  value_meaning: price paid, euros

ingest:
  source:
    kind: tables
    timestamp_unit: ms
    events:
      path: {data}/orders
      columns: {{user_id: customer, item_id: article, timestamp: ordered_at, value: amount}}
    users:
      path: {data}/customers.csv
      delimiter: ";"
      columns: {{user_id: customer}}
    items:
      path: {data}/articles.parquet
      columns: {{item_id: article, item_name: title, category: product_group}}

features: {{history_length: 20, example_days: 20, join_days: 10}}
towers: {{embedding_dim: 8, factor_dim: 4, text_length: 8, text_buckets: 64}}
training: {{epochs: 2, batch_size: 64, negatives: {{num_uniform: 16}}, example_days: 20}}
index: {{ef_search: 60, num_queries: 50}}
serving: {{max_fetch: 100, fusion_depth: 60, second_look: null}}
evaluation: {{window_days: 5, ks: [5, 20], bootstrap_samples: 100}}
beam: {{shards: 2}}
"""


def taste_of(row: int) -> int:
    """Users and items alternate between two tastes: 0 buys fruit, 1 buys tools."""
    return row % 2


def write_shop(folder: Path) -> Path:
    """Writes the tables of the shop and its configuration; returns the path of the latter.

    Nearly all purchases are of the user's own taste. Item 119 has no name, one order has no customer.
    """
    rng = np.random.default_rng(7)
    (folder / "orders").mkdir(parents=True)
    own = [np.arange(taste, NUM_ITEMS, 2) for taste in (0, 1)]
    popularity = 1 / np.arange(1, NUM_ITEMS // 2 + 1) ** 0.7
    popularity /= popularity.sum()
    midnight = pd.Timestamp(FIRST_DAY, tz="UTC").value // 1_000_000
    orders = []
    for day in range(NUM_DAYS):
        for user in range(NUM_USERS):
            for _ in range(rng.binomial(2, 0.35)):
                taste = taste_of(user) if rng.random() < 0.97 else 1 - taste_of(user)
                item = rng.choice(own[taste], p=popularity)
                moment = midnight + day * 86_400_000 + int(rng.integers(86_400_000))
                orders.append((f"c{user:02}", f"a{item:03}", moment, round(2 + item % 7 + rng.random(), 2)))
    frame = pd.DataFrame(orders, columns=["customer", "article", "ordered_at", "amount"])
    frame.loc[5, "customer"] = None
    half = len(frame) // 2
    frame[:half].to_csv(folder / "orders" / "january.csv", index=False)
    frame[half:].to_csv(folder / "orders" / "february.csv", index=False)
    pd.DataFrame(
        {
            "customer": [f"c{user:02}" for user in range(NUM_USERS)],
            "country": rng.choice(["NL", "DE", "FR"], NUM_USERS),
            "age": rng.integers(18, 80, NUM_USERS),
            "about": ["likes apples" if taste_of(user) == 0 else "likes hammers" for user in range(NUM_USERS)],
        }
    ).to_csv(folder / "customers.csv", sep=";", index=False)
    kinds = np.array(["fruit", "tool"])
    pd.DataFrame(
        {
            "article": [f"a{item:03}" for item in range(NUM_ITEMS)],
            "title": [f"{kinds[taste_of(item)]} number {item}" for item in range(NUM_ITEMS - 1)] + [None],
            "product_group": [kinds[taste_of(item)] for item in range(NUM_ITEMS)],
            "brand": [f"maker {item % 5}" for item in range(NUM_ITEMS)],
            "description": [f"a fine {kinds[taste_of(item)]}" for item in range(NUM_ITEMS)],
            "list_price": [3.0 + item % 7 for item in range(NUM_ITEMS)],
        }
    ).to_parquet(folder / "articles.parquet")
    config = folder / "shop.yaml"
    config.write_text(CONFIG.format(day=DAY, data=folder))
    return config


def twinspire(*arguments: object, cwd: Path | None = None, run: Callable[..., Ran] = forking.run) -> Ran:
    """Runs the command as a user does, in a forked process, or in a new one with `run=subprocess.run`."""
    command = [sys.executable, "-m", "twinspire", *map(str, arguments)]
    # A program must not depend on the environment of the test process.
    kept_back = ("TF_USE_LEGACY_KERAS", "TF_CPP_MIN_LOG_LEVEL", "MPLBACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in kept_back}
    return run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True)


@dataclass(frozen=True)
class Shop:
    """A shop and its runs.

    Attributes:
        config: The YAML file.
        runs: Folder of the runs.
        ran: What the run of a day printed.
        day, next_day: The day in the file and the one after it.
    """

    config: Path
    runs: Path
    ran: Ran
    day: dt.date = DAY
    next_day: dt.date = NEXT_DAY

    @property
    def root(self) -> Path:
        """Folder of this dataset's runs."""
        return self.runs / "corner_shop"

    def copy(self, runs: Path) -> Shop:
        """The same shop, with runs that begin as these are now and may be changed."""
        return replace(self, runs=Path(shutil.copytree(self.runs, runs, symlinks=True)))

    def do(self, command: str, *flags: object) -> Ran:
        """Runs a command on this shop."""
        return twinspire(*self.command(command, *flags))

    def command(self, command: str, *flags: object) -> list[str]:
        """The arguments of a command on this shop."""
        return [command, "--config", str(self.config), "--runs", str(self.runs), *map(str, flags)]


@pytest.fixture(scope="session")
def shop_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop's tables and its configuration; no test changes them."""
    return once(tmp_path_factory, "shop", lambda folder: write_shop(folder / "shop"))


def run_first_day(config: Path, runs: Path, run: Callable[..., Ran]) -> Shop:
    """The shop after the run of `DAY`."""
    return Shop(config, runs, twinspire("run", "--config", config, "--runs", runs, "--now", NOW, run=run))


@pytest.fixture(scope="session")
def first_day(shop_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The shop after the run of `DAY`, a program that was started as a user starts it; no test changes it."""
    return once(tmp_path_factory, "first_day", lambda runs: run_first_day(shop_config, runs, subprocess.run))


@pytest.fixture(scope="session")
def elsewhere(shop_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The same in another folder, by a program that was forked; no test changes it."""
    return once(tmp_path_factory, "elsewhere", lambda runs: run_first_day(shop_config, runs, forking.run))


FIRST_NIGHT = DAY
# A user and an item that are unknown before their first order, on the day of the first night.
NEW_CUSTOMER, NEW_ARTICLE = "c60", "a120"
# Of a night, so that it takes half a minute less.
SMALL_NIGHT = {
    "features": {"history_length": 20, "example_days": 8, "join_days": 10, "late_days": 2},
    # A night has a few steps, which are to be large enough to learn something.
    "training": {"epochs": 1, "batch_size": 64, "negatives": {"num_uniform": 16}, "example_days": 8,
                 "validation_days": 0, "optimizer": "adagrad", "learning_rate": 0.1},
}  # fmt: skip


@dataclass(frozen=True)
class GrowingShop:
    """A shop whose orders come a file a day, and its nights.

    Attributes:
        source: Its tables and its configuration.
        runs: Folder of the runs.
    """

    source: Path
    runs: Path

    @property
    def root(self) -> Path:
        """Folder of this dataset's runs."""
        return self.runs / "corner_shop"

    @property
    def config(self) -> Path:
        """The YAML file."""
        return self.source / "shop.yaml"

    def arrive(self, until: dt.date) -> None:
        """Puts the orders of the days before one into the source, and with them who and what is new."""
        orders = pd.read_parquet(self.source / "all_orders.parquet")
        days = pd.to_datetime(orders["ordered_at"], unit="ms").dt.date
        for day in sorted(day for day in days.unique() if day < until):
            file = self.source / "orders" / f"{day}.csv"
            if not file.exists():
                orders[days == day].to_csv(file, index=False)
        if until > FIRST_NIGHT:
            customers, articles = self.source / "customers.csv", self.source / "articles.parquet"
            if NEW_CUSTOMER not in customers.read_text():
                with customers.open("a") as file:
                    file.write(f"{NEW_CUSTOMER};NL;30;likes apples\n")
                known = pd.read_parquet(articles)
                new = known.iloc[[0]].assign(article=NEW_ARTICLE, title="fruit number 120")
                pd.concat([known, new]).to_parquet(articles)

    def order_late(self, day: dt.date) -> None:
        """Adds an order to a day that has been read already."""
        moment = pd.Timestamp(day, tz="UTC").value // 1_000_000 + 43_200_000
        with (self.source / "orders" / f"{day}.csv").open("a") as file:
            file.write(f"c00,a000,{moment},3.5\n")

    def flags(self, *flags: object) -> list[str]:
        """The arguments of each command on this shop."""
        return ["--config", str(self.config), "--runs", str(self.runs), *map(str, flags)]

    def night(self, day: dt.date, *flags: object) -> Ran:
        """Runs a night as a scheduler does."""
        return self.do("daily", "--date", day, "--now", NOW, *flags)

    def do(self, command: str, *flags: object) -> Ran:
        """Runs a command on this shop."""
        return twinspire(command, *self.flags(*flags))

    def version(self, day: dt.date) -> str:
        """The bundle of a day."""
        return (self.root / "steps" / str(day) / "bundle.txt").read_text()

    def copy_runs(self, runs: Path) -> GrowingShop:
        """The same source, with runs that begin as these are now."""
        return GrowingShop(self.source, Path(shutil.copytree(self.runs, runs, symlinks=True)))

    def elsewhere(self, folder: Path) -> GrowingShop:
        """A copy of the source and of the runs."""
        source = Path(shutil.copytree(self.source, folder / "source"))
        (source / "shop.yaml").write_text(self.config.read_text().replace(str(self.source), str(source)))
        return GrowingShop(source, Path(shutil.copytree(self.runs, folder / "runs", symlinks=True)))


def write_growing_shop(folder: Path) -> GrowingShop:
    """Writes the shop again, with the orders of each day in a file of its own, none of them arrived yet."""
    source = folder / "source"
    config = yaml.safe_load(write_shop(source).read_text()) | SMALL_NIGHT
    files = sorted((source / "orders").glob("*.csv"), reverse=True)
    orders = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
    morning = pd.Timestamp(FIRST_NIGHT, tz="UTC").value // 1_000_000 + 28_800_000
    new = [(f"c{user:02}", NEW_ARTICLE, morning + user, 4.5) for user in (0, 2, 4, 60)]
    new += [(NEW_CUSTOMER, f"a{item:03}", morning + 100 + item, 4.5) for item in (0, 2)]
    orders = pd.concat([orders, pd.DataFrame(new, columns=orders.columns)], ignore_index=True)
    orders.to_parquet(source / "all_orders.parquet")
    for file in files:
        file.unlink()
    (source / "shop.yaml").write_text(yaml.safe_dump(config))
    return GrowingShop(source, folder / "runs")


@pytest.fixture(scope="session")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> GrowingShop:
    """The growing shop after its first night; to be copied by every test that continues from it."""

    def make(folder: Path) -> GrowingShop:
        shop = write_growing_shop(folder)
        shop.arrive(FIRST_NIGHT)
        ran = shop.night(FIRST_NIGHT)
        assert ran.returncode == 0, ran.stderr
        return shop

    return once(tmp_path_factory, "first_night", make)


MOVIELENS = Path(__file__).parents[2] / "configs" / "movielens.yaml"
NUM_RATERS, NUM_FILMS, NUM_RATINGS = 40, 60, 1200
# 1998-03-01, and the month before the configuration's cut and two days after it.
FIRST_SECONDS, NUM_RATING_DAYS = 888_710_400, 33
SMALL = {
    "features.example_days": 15,
    "training.example_days": 15,
    "training.epochs": 1,
    "training.batch_size": 64,
    "training.negatives.num_uniform": 8,
    "towers.embedding_dim": 4,
    "towers.factor_dim": 0,
    "evaluation.ks": [5],
}


def write_ratings(folder: Path) -> None:
    """`u.data`, `u.user` and `u.item` as GroupLens lays them out, with ratings by chance."""
    rng = np.random.default_rng(11)
    pairs = rng.choice(NUM_RATERS * NUM_FILMS, NUM_RATINGS, replace=False)
    with (folder / "u.data").open("w", encoding="latin-1") as file:
        for pair in pairs:
            moment = FIRST_SECONDS + rng.integers(NUM_RATING_DAYS * 86_400)
            file.write(f"{pair // NUM_FILMS + 1}\t{pair % NUM_FILMS + 1}\t{rng.integers(1, 6)}\t{moment}\n")
    with (folder / "u.user").open("w", encoding="latin-1") as file:
        for user in range(1, NUM_RATERS + 1):
            file.write(f"{user}|{20 + user}|{'MF'[user % 2]}|student|{10_000 + user}\n")
    with (folder / "u.item").open("w", encoding="latin-1") as file:
        for item in range(1, NUM_FILMS + 1):
            genres = "|".join(str(int(number == item % 19)) for number in range(19))
            file.write(
                f"{item}|Caf\xe9 {item}, The ({1950 + item % 48})|01-Jan-1995||http://example.org/{item}|{genres}\n"
            )


@dataclass(frozen=True)
class Ratings:
    """What the steps made of MovieLens files.

    Attributes:
        root: Folder of the dataset's runs.
        ran: Step -> what its command printed.
    """

    root: Path
    ran: dict[str, Ran]


def rate(folder: Path) -> Ratings:
    """Writes the files and runs three steps on them, each by its command."""
    files = folder / "ml-100k"
    files.mkdir()
    write_ratings(files)
    overrides = {"ingest.source.path": str(files), **SMALL}
    flags = ["--config", MOVIELENS, *(part for key, value in overrides.items() for part in ("--set", f"{key}={value}"))]
    ran = {step: twinspire(step, *flags, cwd=folder) for step in ("ingest", "features", "train")}
    return Ratings(folder / "runs" / "movielens", ran)


@pytest.fixture(scope="session")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Ratings:
    """MovieLens after its three steps."""
    return rate(tmp_path_factory.mktemp("movielens"))
