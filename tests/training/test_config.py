"""The configuration refuses a method that lacks something it needs, and names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from artefacts.config import ConfigError
from training.method_checks import method_warnings
from twinspire.config import Config
from twinspire.load_config import load

SHOP = """
name: shop
as_of: 2024-01-01
dataset:
  user_columns: {country: categorical, age: numeric}
  item_columns: {brand: [categorical, text], aisle: categorical, price: numeric, title: text}
ingest: {source: {kind: complete_journey}}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(SHOP)
    return path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["training.negatives.mined_band=[500, 101]"],
            "training.negatives.mined_band is (500, 101), expected its first rank first",
        ),
        (
            ["training.negatives.impressions=shown.parquet"],
            "training.negatives.impressions is shown.parquet and num_impressions is 0; set both or neither",
        ),
        (
            ["training.negatives.num_impressions=3"],
            "training.negatives.impressions is None and num_impressions is 3; set both or neither",
        ),
        (
            ["training.hard_model_weight=0.7"],
            "training.hard_model_weight is 0.7, which asks for a model with mined negatives, and "
            "training.negatives.easy_per_hard takes none; set it too, 100 for instance",
        ),
        (
            ["training.hard_model_weight=1", "training.negatives.easy_per_hard=100", "training.mobius={}"],
            "training.hard_model_weight and training.mobius both fit a second model; choose one",
        ),
        (
            ["training.distillation={}", "training.mobius={}"],
            "training.distillation and training.mobius are both set: the three classes have no list of candidates",
        ),
        (
            ["training.distillation={denoise_above: 0.5}"],
            "training.distillation.denoise_above is 0.5, which drops mined negatives, and "
            "training.negatives.easy_per_hard takes none; set it too, 100 for instance",
        ),
        (
            ["training.distillation={weight: 0}"],
            "training.distillation.weight is 0 and denoise_above is null: the teacher would do nothing; set one of",
        ),
        (
            ["training.extra_losses={distillation: {arguments: {loss: kl}}}"],
            "training.extra_losses names 'distillation', which reads what training.distillation adds to the towers",
        ),
        (
            ["training.negatives={in_batch: false, num_uniform: 0}"],
            "training.negatives names no source; set in_batch, num_uniform, num_random, queue_size, easy_per_hard or "
            "extra_sources",
        ),
        (
            ["training.negatives={in_batch: false, num_hard_in_batch: 2}"],
            "training.negatives.num_hard_in_batch is 2 and in_batch is false: the other rows' items are no negatives",
        ),
        (
            ["towers.id_dropout=0.1"],
            "towers.id_dropout is 0.1 and id_buckets is 0: there is no bucket to replace an id by",
        ),
        (
            ["training.mobius={}", "towers.embedding_dim=2"],
            "towers.embedding_dim is 2, expected at least 3: training.mobius cuts vectors into three parts",
        ),
        (
            ["training.mobius={}", "training.negatives={in_batch: false, num_uniform: 0, num_random: 5}"],
            "training.mobius samples its pairs from the batch, and training.negatives has neither in_batch nor",
        ),
        (
            ["towers.dual_augmented={}"],
            "towers.dual_augmented.category_alignment needs dataset.item_category, which is not set",
        ),
        (
            ["towers.dual_augmented={}", "dataset.item_category=title"],
            "towers.dual_augmented.category_alignment needs dataset.item_category, 'title', which is not categorical",
        ),
        (
            ["towers.counterpart={}"],
            "towers.counterpart names no fields; set user_fields or item_fields, or counterpart: null",
        ),
        (
            ["towers.counterpart.item_fields=[brand, colour]"],
            "towers.counterpart.item_fields names 'colour', expected categorical item columns: brand, aisle",
        ),
        (
            ["towers.counterpart.user_fields=[age]"],
            "towers.counterpart.user_fields names 'age', expected categorical user columns: country",
        ),
        (
            ["towers.counterpart.user_fields=[age]", "dataset={user_columns: {age: numeric}}"],
            "towers.counterpart.user_fields names 'age', expected categorical user columns: (none declared)",
        ),
        (
            ["towers.counterpart.item_fields=[brand, aisle, brand]"],
            "towers.counterpart.item_fields names 'brand' more than once; name it once",
        ),
        (
            [
                "towers.counterpart={source: statistic, item_fields: [brand, aisle]}",
                "dataset.user_statistics_of=[brand]",
            ],
            "towers.counterpart.source is statistic, and dataset.user_statistics_of lacks 'aisle'; list it there",
        ),
        (
            ["towers.counterpart={source: statistic, user_fields: [country]}"],
            "towers.counterpart.source is statistic, and dataset.item_statistics_of lacks 'country'; list it there",
        ),
        (
            ["dataset.user_statistics_of=[brand]"],
            "dataset.user_statistics_of names 'brand', and no tower reads its shares; set towers.counterpart: "
            "{source: statistic, item_fields: [brand]}, or remove it there",
        ),
        (
            ["dataset.item_statistics_of=[country]", "towers.counterpart={user_fields: [country]}"],
            "dataset.item_statistics_of names 'country', and no tower reads its shares",
        ),
        (
            ["training.distribute=multi_worker", "towers={id_buckets: 5, id_dropout: 0.1}"],
            "towers.id_dropout is 0.1 and training.distribute is multi_worker: several processes would not fit what "
            "one fits; set towers.id_dropout: 0, or training.distribute: none",
        ),
        (
            ["training.distribute=multi_worker", "towers.dual_augmented.category_alignment=0"],
            "towers.dual_augmented.dropout is 0.1 and training.distribute is multi_worker",
        ),
        (
            ["training.distribute=multi_worker", "training.positions=3"],
            "training.positions is 3 and training.distribute is multi_worker",
        ),
        (
            [
                "training.distribute=multi_worker",
                "towers.history_encoder=self_attention",
                "towers.history_settings={dropout: 0.1}",
            ],
            "towers.history_settings.dropout is 0.1 and training.distribute is multi_worker",
        ),
        (
            ["towers.interests={}", "training.mobius={}"],
            "training.mobius is set and towers.interests.num is 4: its three classes are parts of one vector of a user;"
            " set training.mobius: null, or towers.interests: null",
        ),
        (
            ["towers.interests={}", "training.hard_model_weight=0.5", "training.negatives.easy_per_hard=10"],
            "training.hard_model_weight is 0.5 and towers.interests.num is 4: the interests of two models have no",
        ),
        (
            ["towers.interests={num: 2}", "training.positions=3"],
            "training.positions is 3 and towers.interests.num is 2: interests are read at the end of a history alone",
        ),
        (
            ["towers.interests={}", "towers.history_encoder=gru", "towers.history_settings={means: [null, 7]}"],
            "towers.history_settings.means is (None, 7.0) and towers.interests.num is 4: interests read the state",
        ),
        (
            ["training.positions=50", "features.history_length=50"],
            "training.positions is 50, expected less than features.history_length, 50: each position needs a place",
        ),
        (
            ["training.positions=9", "towers.history_encoder=gru", "towers.history_settings={length: 9}"],
            "training.positions is 9, and towers.history_settings has a length of 9: each position needs a place",
        ),
        (
            ["towers.history_encoder=self_attention", "towers.history_settings={blocks: 9}"],
            "towers.history_settings of self_attention: blocks is 9, expected a whole number from 1 to 4",
        ),
        (
            ["towers.history_encoder=gru", "towers.history_settings={heads: 2}"],
            "found {'heads': 2}: got an unexpected keyword argument 'heads'",
        ),
        (
            ["towers.history_encoder=gru", "towers.history_settings={means: [null, -7]}"],
            "towers.history_settings of gru: means is (None, -7.0), expected a list of days above 0, or null",
        ),
        (
            ["training.distribute=multi_worker", "training.negatives.queue_size=20"],
            "training.negatives.queue_size is 20 and training.distribute is multi_worker",
        ),
        (
            ["training.distribute=multi_worker", "training.negatives.num_hard_in_batch=1"],
            "training.negatives.num_hard_in_batch is 1 and training.distribute is multi_worker",
        ),
        (
            ["training.distribute=multi_worker", "training.mobius={}"],
            "training.mobius is set and training.distribute is multi_worker: several processes would not fit what one "
            "fits; set training.mobius: null, or training.distribute: none",
        ),
        (
            [
                "training.distribute=multi_worker",
                "training.extra_losses={hard_in_batch: {arguments: {num_hard: 1, margin: 0.1}}}",
            ],
            "training.extra_losses is set and training.distribute is multi_worker: several processes would not fit "
            "what one fits; set training.extra_losses: {}, or training.distribute: none",
        ),
        (
            ["training.distribute=multi_worker", "sparcode={}"],
            "training.distribute is multi_worker, and sparcode is fitted by one process alone; set sparcode: null, or",
        ),
    ],
)
def test_a_method_without_what_it_needs_is_refused(shop: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(shop, overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.negatives={in_batch: false, num_uniform: 0, num_random: 4}", "training.log_q=none"],
        ["training.negatives={in_batch: false, num_uniform: 0, queue_size: 8}"],
        ["training.negatives={in_batch: false, num_uniform: 0, easy_per_hard: 100}"],
        ["training.negatives={impressions: shown.parquet, num_impressions: 1}"],
        ["training.negatives.mined_band=[7, 7]"],
        ["training.negatives.easy_per_hard=100", "training.hard_model_weight=0.5"],
        ["training.mobius={}", "towers.embedding_dim=3", "training.negatives.in_batch=false"],
        ["training.distillation={teacher: scores.csv, loss: rank}", "towers.interests={}"],
        ["training.distillation={weight: 0, denoise_above: 0}", "training.negatives.easy_per_hard=100"],
        ["training.distillation={}", "training.distribute=multi_worker"],
        ["towers={id_buckets: 1, id_dropout: 0.5}"],
        ["towers.dual_augmented.category_alignment=0"],
        ["towers.dual_augmented={}", "dataset.item_category=aisle"],
        ["towers.counterpart={user_fields: [country], item_fields: [aisle]}"],
        [
            "towers.counterpart={source: statistic, user_fields: [country], item_fields: [brand]}",
            "dataset.user_statistics_of=[brand]",
            "dataset.item_statistics_of=[country]",
        ],
        ["training.validation_days=0"],
        [
            "training={distribute: multi_worker, frequency: streaming, log_q: khrylchenko2025, reward: value}",
            "towers={learn_temperature: true, dual_augmented: {dropout: 0}, counterpart: {user_fields: [country]}}",
            "training.negatives={num_random: 3, easy_per_hard: 100}",
            "training.hard_model_weight=0.5",
            "dataset.item_category=aisle",
        ],
    ],
)
def test_a_method_with_what_it_needs_is_taken(shop: Path, overrides: list[str]) -> None:
    assert isinstance(load(shop, overrides), Config)


CROSSES = "is added to towers without hidden layers: nothing crosses; set towers.hidden_units"
COUNTERPART = "towers.counterpart={user_fields: [country], item_fields: [aisle]}"
NO_BIAS = "and no negative is drawn by popularity: there is no bias to correct"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["towers.dual_augmented.category_alignment=0"], f"towers.dual_augmented {CROSSES}"),
        ([COUNTERPART], f"towers.counterpart {CROSSES}"),
        (["towers.id_buckets=7"], "towers.id_buckets is 7 and id_dropout is 0: no bucket is ever trained; set id_dro"),
        (["training.negatives.in_batch=false"], f"training.log_q is yi2019, {NO_BIAS}"),
        (
            ["training.negatives={in_batch: false, easy_per_hard: 100}", "training.log_q=khrylchenko2025"],
            f"training.log_q is khrylchenko2025, {NO_BIAS}",
        ),
        (
            ["training.negatives={easy_per_hard: 100, hard_weight: null}"],
            "training.negatives.easy_per_hard is 100.0, and log_q yi2019 corrects the own item but not these "
            "negatives, which then weigh little; set training.negatives.hard_weight, 1 for instance",
        ),
        (
            ["training.negatives={impressions: shown.parquet, num_impressions: 3, hard_weight: null}"],
            "training.negatives.num_impressions is 3, and log_q yi2019 corrects the own item",
        ),
        (
            [
                "training.negatives={easy_per_hard: 100, mined_band: [101, 120], mined_per_user: 21}",
                "training.log_q=khrylchenko2025",
            ],
            "training.negatives.mined_band is (101, 120): 20 ranks, and mined_per_user asks for 21 items of them; wid",
        ),
        (
            ["training.mobius={}", "training.negatives.queue_size=64"],
            "training.negatives.queue_size is 64, and training.mobius does not read it; leave one out",
        ),
    ],
)
def test_a_method_without_what_it_presumes_is_taken_with_a_warning(
    shop: Path, overrides: list[str], message: str
) -> None:
    config = load(shop, overrides)
    (warning,) = method_warnings(config.towers, config.training)
    assert message in warning


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["towers.dual_augmented.category_alignment=0", "towers.hidden_units=[8]"],
        # The last layer of an mlp is not linear.
        [COUNTERPART, "towers.head=mlp"],
        ["towers={id_buckets: 7, id_dropout: 0.1}"],
        ["training.negatives.in_batch=false", "training.log_q=none"],
        ["training.negatives={in_batch: false, queue_size: 64}"],
        ["training.negatives={in_batch: false, extra_sources: {random: {num: 2}}}"],
        ["training.negatives.easy_per_hard=100", "training.log_q=khrylchenko2025"],
        ["training.negatives={in_batch: false, easy_per_hard: 100}", "training.log_q=none"],
        [
            "training.negatives={easy_per_hard: 100, mined_band: [101, 120], mined_per_user: 20}",
            "training.log_q=khrylchenko2025",
        ],
        ["training.mobius={}", "training.negatives.in_batch=false"],
    ],
)
def test_a_method_with_what_it_presumes_has_no_warning(shop: Path, overrides: list[str]) -> None:
    config = load(shop, overrides)
    assert method_warnings(config.towers, config.training) == []
