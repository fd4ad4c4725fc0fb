"""A mistake in an ablation file is found before anything is fitted, and each arm is as the file describes it."""

from __future__ import annotations

import datetime as dt
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from artefacts.config import ConfigError
from evaluation.worlds.config import WorldConfig
from evaluation.worlds.write import write_world
from training.method_checks import method_warnings
from twinspire.ablation_config import Ablation, AblationSettings, folder_of, load_ablation
from twinspire.load_config import load, resolve

REPOSITORY = Path(__file__).parents[2]
TABLES = REPOSITORY / "configs" / "tables_example.yaml"
SHIPPED = sorted((REPOSITORY / "configs" / "ablations").glob("*.yaml"))

PLAIN: dict[str, Any] = {
    "config": str(TABLES),
    "cuts": [dt.date(2024, 5, 1), dt.date(2024, 5, 8)],
    "seeds": [1, 2],
    "reference": "default",
    "arms": {
        "default": {},
        "no log q": {"overrides": {"training.log_q": "none", "towers.history_decay_days": 1e-6}},
        "mined": {"overrides": {"training.negatives.easy_per_hard": 100}, "needs": "default", "against": "no log q"},
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def written(folder: Path, content: object) -> Path:
    path = folder / "arms.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def loaded(folder: Path, *overrides: str, **changes: object) -> Ablation:
    return load_ablation(written(folder, {**PLAIN, **changes}), overrides)


def with_arm(**arm: object) -> dict[str, object]:
    return {**PLAIN["arms"], "odd": arm}


def test_an_arm_is_the_configuration_with_its_overrides_and_no_days_held_out(folder: Path) -> None:
    ablation = loaded(folder)
    arm = ablation.arms["no log q"]
    assert (arm.training.log_q, arm.towers.history_decay_days) == ("none", (1e-6,))
    assert arm.as_of == dt.date(2024, 5, 1)
    expected = load(TABLES, ["as_of=2024-05-01", "training.log_q=none", "towers.history_decay_days=0.000001"])
    assert arm.training.model_dump() == {**expected.training.model_dump(), "validation_days": 0, "epochs": 2}
    assert (arm.towers, arm.features, arm.seed) == (expected.towers, expected.features, expected.seed)
    assert ablation.base == load(TABLES, ["as_of=2024-05-01"])


def test_validation_days_are_held_out_where_a_file_asks_for_them(folder: Path) -> None:
    arm = loaded(folder, validation_days=3).arms["default"]
    assert (arm.training.validation_days, arm.training.epochs) == (3, load(TABLES).training.epochs)


def test_the_graph_is_searched_without_sparcode(folder: Path) -> None:
    assert loaded(folder, arms=with_arm(lists="hnsw")).settings.arms["odd"].lists == "hnsw"


def test_overrides_of_all_arms_come_before_those_of_an_arm(folder: Path) -> None:
    ablation = loaded(
        folder,
        "training.epochs=7",
        overrides={"training.epochs": 5, "evaluation.ks": [3], "features.example_days": 999},
        arms=with_arm(overrides={"training.epochs": 9}),
    )
    assert [config.training.epochs for config in ablation.arms.values()] == [7, 7, 7, 9]
    assert ablation.base.evaluation.ks == (3,)
    assert {config.features.example_days for config in ablation.arms.values()} == {999}


def test_an_arm_brings_its_requirements_and_its_reference(folder: Path) -> None:
    ablation = loaded(folder, arms=with_arm())
    assert ablation.chosen([]) == ["default", "no log q", "mined", "odd"]
    assert ablation.chosen(["odd"]) == ["default", "odd"]
    assert ablation.chosen(["mined"]) == ["default", "no log q", "mined"]
    assert [ablation.against(arm) for arm in ablation.arms] == [None, "default", "no log q", "default"]
    with pytest.raises(ConfigError, match=r"--only mine: no arm 'mine'; the arms are: default, no log q, mined, odd"):
        ablation.chosen(["mine"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {}}, "unknown key 'arm'; did you mean 'arms'?"),
        ({"arms": with_arm(overides={})}, "unknown key 'arms.odd.overides'; did you mean 'overrides'?"),
        ({"arms": with_arm(overrides={"training.epoch": 3})}, "unknown key 'training.epoch'; did you mean 'epochs'?"),
        ({"arms": with_arm(overrides={"towers.dual_augmented.cal": 1})}, "did you mean 'cold'?"),
        ({"arms": with_arm(overrides={"training.epochs": 0})}, "training.epochs: Input should be greater than"),
        ({"arms": with_arm(overrides={"seed": 3})}, "arm 'odd': 'seed' is the same in all arms"),
        ({"arms": with_arm(overrides={"ingest.chunk_rows": 3})}, "'ingest.chunk_rows' is the same in all arms"),
        ({"arms": with_arm(needs="default")}, "easy_per_hard is None and needs is 'default'"),
        (
            {"arms": with_arm(overrides={"training.negatives.easy_per_hard": 9})},
            "easy_per_hard is 9.0 and needs is Non",
        ),
        ({"arms": with_arm(needs="odd")}, "expected an arm listed before it: default, no log q, mined"),
        ({"arms": with_arm(against="none")}, "against is 'none', expected one of default, no log q, mined, odd"),
        ({"arms": {"default": {}, "DEFAULT": {}}}, "arm 'DEFAULT' is too much like 'default'"),
        ({"arms": {"default": {}, "ease": {}}}, "arm 'ease' is too much like 'EASE'"),
        ({"arms": {"default": {}, "+": {}}}, "arm '+' is too much like"),
        ({"arms": {"default": {}, "a,b": {}}}, "arm 'a,b': a name holds no comma"),
        ({"reference": "best"}, "reference is 'best', expected one of the arms: default"),
        ({"cuts": PLAIN["cuts"][::-1]}, "cuts are 2024-05-08, 2024-05-01; give each once, in time order"),
        ({"seeds": [1, 1]}, "seeds are [1, 1]; give each once"),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"config": "none.yaml"}, "none.yaml: no such file"),
        (
            {"baselines": ["eas"]},
            "baselines names 'eas', expected some of: popularity, repeat, item-knn, ease, als, or",
        ),
        (
            {"arms": with_arm(lists="hidden_past")},
            "lists is 'hidden_past', and ingest.hidden_past is null; set it under `overrides` of the file, such as "
            "ingest.hidden_past: {share: 0.1, before: ",
        ),
        (
            {"arms": with_arm(lists="hybrid_hidden_past")},
            "lists is 'hybrid_hidden_past', and ingest.hidden_past is null",
        ),
        ({"arms": with_arm(lists="hybrid")}, "lists is 'hybrid', and sparse is null; set sparse: {} too"),
        ({"arms": with_arm(lists="sparcode")}, "lists is 'sparcode', and sparcode is null; set sparcode: {} too"),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(folder: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(folder, **changes)
    assert message in str(raised.value)


def test_a_mistake_in_an_arm_names_the_file_and_the_arm(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"arms\.yaml, arm 'odd': .*tables_example\.yaml: unknown key 'trainig'"):
        loaded(folder, arms=with_arm(overrides={"trainig": 3}))


def test_a_file_without_arms_is_an_error_that_names_the_keys(folder: Path) -> None:
    with pytest.raises(ConfigError, match="holds list, expected a mapping with the keys config, cuts, seeds"):
        load_ablation(written(folder, "- arms"), [])


def test_overrides_are_shared_by_a_merge_key_and_a_key_given_twice_is_still_refused(folder: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in PLAIN.items() if key != "arms"})
    arms = "arms:\n  default: {overrides: &one {training.epochs: 4}}\n"
    arms += "  other: {overrides: {<<: *one, towers.factor_dim: 0}}"
    other = load_ablation(written(folder, f"{text}{arms}\n"), []).arms["other"]
    assert (other.training.epochs, other.towers.factor_dim) == (4, 0)
    with pytest.raises(ConfigError, match="key 'default' is given twice"):
        load_ablation(written(folder, f"{text}{arms}\n  default: {{}}\n"), [])


def test_a_folder_has_letters_digits_and_underscores_only() -> None:
    assert folder_of("Mined 100:1 (easy)") == "mined_100_1_easy"


@pytest.fixture(scope="module")
def with_a_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shipped files, and the worlds of ablations as their first lines make them, but small."""
    folder = tmp_path_factory.mktemp("shipped")
    for name in ("configs", "benchmarks"):
        (folder / name).symlink_to(REPOSITORY / name)
    commands = [made[1] for path in SHIPPED for made in re.finditer(r"# twinspire world (.+)", path.read_text())]
    in_worlds = [path for path in SHIPPED if yaml.safe_load(path.read_text())["config"].startswith("data/")]
    assert len(commands) == len(in_worlds)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands:
            words = shlex.split(command)
            plain = yaml.safe_load((REPOSITORY / words[0]).read_text()) if words[0].endswith(".yaml") else {}
            chosen = [value for option, value in pairwise(words) if option == "--set"]
            small = resolve(WorldConfig, plain, [*chosen, "users=5"], source="the world")
            write_world(small, Path(words[words.index("--out") + 1]))
    return folder


@pytest.fixture
def shipped(request: pytest.FixtureRequest, with_a_world: Path, monkeypatch: pytest.MonkeyPatch) -> Ablation:
    monkeypatch.chdir(with_a_world)
    return load_ablation(request.param, [])


EVERY_SHIPPED = pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.stem, indirect=True)


@EVERY_SHIPPED
def test_a_shipped_ablation_is_valid_and_never_reads_the_test_week(shipped: Ablation) -> None:
    test_day = load(shipped.settings.config).as_of
    window = dt.timedelta(days=shipped.base.evaluation.window_days)
    assert all(cut + window <= test_day for cut in shipped.settings.cuts)
    assert all(arm.note for arm in shipped.settings.arms.values())


@EVERY_SHIPPED
def test_every_shipped_arm_has_what_its_method_presumes_and_so_has_the_arm_it_is_compared_with(
    shipped: Ablation,
) -> None:
    for name, arm in shipped.arms.items():
        assert method_warnings(arm.towers, arm.training) == [], name
        other = shipped.arms[shipped.against(name) or name]
        without = arm.towers.model_copy(update={"dual_augmented": None, "counterpart": None})
        if without != arm.towers:
            assert without == other.towers, f"{name}: the other arm has the same hidden layers"
        if arm.towers.dual_augmented is not None and arm.towers.dual_augmented.category_alignment:
            # What the loss is divided by, and is not in the paper.
            assert arm.towers.dual_augmented.category_alignment == 4 * arm.towers.embedding_dim**2, name
        if arm.training.negatives.easy_per_hard is not None:
            assert arm.training.log_q == other.training.log_q, f"{name}: the other arm has the same correction"
            assert arm.training.negatives.in_batch == other.training.negatives.in_batch, name
        if arm.training.hard_model_weight is not None:
            assert 2 * arm.towers.embedding_dim == other.towers.embedding_dim, f"{name}: vectors as wide as two models'"
        if arm.training.mobius is not None:
            assert arm.towers.embedding_dim // 3 * 2 == other.towers.embedding_dim, f"{name}: vectors as wide"
            assert other.training.log_q == "none", f"{name}: the other arm does not correct either"
        if arm.training.frequency == "streaming":
            assert arm.training.shuffle_days == other.training.shuffle_days == 1, f"{name}: in time order"


def test_every_field_of_an_ablation_file_is_documented() -> None:
    for model in (AblationSettings, AblationSettings.model_fields["arms"].annotation.__args__[1]):  # type: ignore[union-attr]
        assert all(field.description for field in model.model_fields.values())
