"""The check of commit subjects accepts what is imperative and short, and names what is wrong with the others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[1] / ".ci" / "check-subject"


def check(message: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "message").write_text(message, encoding="utf-8")
    return subprocess.run([CHECK, folder / "message"], check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "message",
    [
        "Add early stopping\n\nThe body may be long, end with a period and hold fixed things.\n",
        "# a comment of git's\nProcess rows in blocks",
        "Embed users in float16",
        "Merge branch 'statistics' of a colleague, with a subject that is longer than seventy-two characters",
        f"Fix {'x' * 68}",
    ],
)
def test_an_imperative_subject_passes(message: str, tmp_path: Path) -> None:
    ran = check(message, tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (f"Fix {'x' * 69}", "73 characters, expected at most 72"),
        ("add early stopping", "'add' does not begin with a capital"),
        ("Add early stopping.", "ends with a period"),
        ("Adds early stopping", "'Adds' is no imperative"),
        ("Added early stopping", "'Added' is no imperative"),
        ("Adding early stopping", "'Adding' is no imperative"),
    ],
)
def test_another_subject_is_refused_with_its_fault(message: str, fault: str, tmp_path: Path) -> None:
    ran = check(message, tmp_path)
    assert ran.returncode == 1
    assert f'commit subject "{message}":\n    {fault}' in ran.stderr
