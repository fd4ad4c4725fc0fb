"""Arms on the command line are read whole, or refused with an explanation."""

from __future__ import annotations

from pathlib import Path

import pytest

from artefacts.config import ConfigError
from evaluation.arms.spec import ArmSpec, parse_arm, parse_arms


def test_reads_bundles_baselines_files_and_configurations() -> None:
    assert parse_arm("current") == ArmSpec("current", "bundle", "current")
    assert parse_arm("2017-12-01-0f3c9a71,retriever=exact,weight_exponent=.5,runs=other") == ArmSpec(
        "2017-12-01-0f3c9a71,retriever=exact,weight_exponent=.5,runs=other",
        "bundle",
        "2017-12-01-0f3c9a71",
        "exact",
        0.5,
        Path("other"),
    )
    assert parse_arm("mine=EASE") == ArmSpec("mine", "baseline", "ease")
    assert parse_arm("theirs=file:lists/today.csv") == ArmSpec("theirs", "file", "lists/today.csv")
    assert parse_arm("train").what == ""
    assert parse_arm("wide=train:configs/a.yaml,set=towers.embedding_dim=64,set=evaluation.ks=[5,10]") == ArmSpec(
        "wide", "train", "configs/a.yaml", overrides=("towers.embedding_dim=64", "evaluation.ks=[5,10]")
    )


def test_takes_the_folder_of_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert parse_arm(f"copy={tmp_path}") == ArmSpec("copy", "bundle", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", r"'nonsense' is no arm; expected current, previous, nightly, a version .*popularity, repeat"),
        ("file:", "'file:' is no arm"),
        ("ease,retriever=exact", r"option 'retriever=exact', expected some of: \(none\)"),
        ("current,exact", "option 'exact', expected some of: retriever, weight_exponent, runs, each as option=value"),
        ("current,retriever=best", "retriever is 'best', expected one of: two_tower, exact, sparcode"),
        ("current,weight_exponent=-1", "weight_exponent is '-1', expected a number from 0 on"),
        ("current,weight_exponent=much", "weight_exponent is 'much', expected a number from 0 on"),
        ("current,runs=a,runs=b", "runs is given twice"),
    ],
)
def test_an_unreadable_arm_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arm(text)


def test_two_arms_of_one_name_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="two arms are called 'ease'; give one a name of its own, such as 'mine=ease'"
    ):
        parse_arms(["ease", "ease"])
