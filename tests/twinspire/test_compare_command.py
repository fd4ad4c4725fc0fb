"""`twinspire ab` reads arms, seeds and cuts in either form; a wrong call of `ab` or `ablate` is explained at once."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests import forking
from twinspire import compare_arms
from twinspire.cli import app

REPOSITORY = Path(__file__).parents[2]
JOURNEY = REPOSITORY / "configs" / "complete_journey.yaml"
ARMS = f"""
config: {JOURNEY}
cuts: [2017-11-24]
seeds: [1]
reference: default
arms:
  default: {{}}
  longer: {{overrides: {{training.epochs: 3}}}}
"""


def ablate(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder with one file in it."""
    (folder / "arms.yaml").write_text(ARMS)
    command = [sys.executable, "-m", "twinspire", "ablate", *map(str, arguments)]
    return forking.run(command, cwd=folder, check=False, capture_output=True, text=True)


def test_it_explains_itself(tmp_path: Path) -> None:
    ran = ablate(tmp_path, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    for expected in (" ablate [OPTIONS] ", "FILE", "--only", "--num-seeds", "--seeds", "--json", "--out", "--runs"):
        assert expected in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["arms.yaml", "--only", "longer,shorter"], "no arm 'shorter'; the arms are: default, longer"),
        (["arms.yaml", "--set", "training.epoch=3"], "unknown key 'training.epoch'; did you mean 'epochs'?"),
        (["arms.yaml", "--seeds", "0"], "Input should be greater than or equal to 1"),
        (["arms.yaml", "--num-seeds", "0"], "Input should be greater than or equal to 1"),
        (["none.yaml"], "'none.yaml' does not exist"),
        ([], "Missing argument 'FILE'"),
    ],
)
def test_a_wrong_command_line_has_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    ran = ablate(tmp_path, *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Traceback" not in ran.stderr
    # A frame around the message breaks its lines.
    assert message in " ".join(ran.stderr.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["arms.yaml"]


class Asked:
    """What `ab` was asked to compare; it ends there."""

    def __init__(self) -> None:
        """Starts with nothing asked."""
        self.plans: list[compare_arms.Plan] = []

    def compare(self, plan: compare_arms.Plan, *_: object) -> None:
        self.plans.append(plan)
        raise ValueError("asked")

    def ab(self, *arguments: str) -> Result:
        """Runs the command in this process."""
        return CliRunner().invoke(app, ["ab", "--config", str(JOURNEY), *arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(compare_arms, "compare", asked.compare)
    return asked


def test_letters_are_short_forms_of_baseline_and_arm(asked: Asked) -> None:
    asked.ab("--baseline", "popularity", "--arm", "ease", "--arm", "mine=als", "--arm", "train")
    asked.ab("--a", "popularity", "--b", "ease", "--c", "mine=als", "--d", "train")
    asked.ab("--a", "popularity", "--d", "train", "--c", "mine=als", "--b", "ease")
    asked.ab("--baseline", "popularity", "--b", "ease", "--arm", "mine=als", "--arm", "train")
    assert [[spec.name for spec in plan.specs] for plan in asked.plans] == [["popularity", "ease", "mine", "train"]] * 4


def test_seeds_and_cuts_are_lists_or_repeated(asked: Asked) -> None:
    arms = ["--baseline", "current", "--arm", "train"]
    asked.ab(*arms, "--seeds", "1,2", "--cut", "2017-11-24,2017-12-01")
    asked.ab(*arms, "--seeds", "1,2", "--cut", "2017-11-24", "--cut", "2017-12-01")
    asked.ab(*arms)
    assert [plan.seeds for plan in asked.plans] == [(1, 2), (1, 2), ()]
    days = [dt.date(2017, 11, 24), dt.date(2017, 12, 1)]
    assert [plan.cuts for plan in asked.plans] == [days, days, days[1:]]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--baseline", "current"], 2, "give at least one arm to compare with the baseline"),
        (["--arm", "current"], 2, "Missing option '--baseline'"),
        (["--a", "current", "--b", "ease", "--seeds", "1,x"], 2, "seeds are '1,x'; give numbers such as 1,2,3"),
        (["--a", "current", "--b", "ease", "--seeds", "1,1"], 2, "seeds are '1,1'; give numbers such as 1,2,3, each"),
        (["--a", "current", "--b", "ease", "--cut", "2017-13-01"], 2, "give days such as 2017-12-01"),
        (["--a", "current", "--b", "ease", "--cut", "2017-12-02,2017-12-01"], 2, "give each once, in time order"),
        (["--a", "ease", "--b", "ease"], 2, "two arms are called 'ease'"),
        (
            ["--a", "current", "--b", "ease", "--protocol", "rolling", "--cut", "2017-12-01,2017-12-02"],
            1,
            "--cut is 2017-12-01, 2017-12-02, and protocol is rolling; give the first one alone",
        ),
    ],
)
def test_a_wrong_call_of_ab_is_explained(asked: Asked, arguments: list[str], code: int, message: str) -> None:
    ran = asked.ab(*arguments)
    assert ran.exit_code == code
    # A frame around the message breaks its lines.
    assert message in " ".join(ran.output.replace("│", " ").split())
    assert asked.plans == []
