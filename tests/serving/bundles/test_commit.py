"""The git commit in a manifest."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from serving.bundles.manifest import code_commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    ran = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return ran.stdout.strip()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of a work tree with one commit."""
    file = tmp_path / "code" / "package" / "module.py"
    file.parent.mkdir(parents=True)
    file.write_text("answer = 42\n")
    git(tmp_path / "code", "init", "--quiet")
    git(tmp_path / "code", "add", ".")
    git(tmp_path / "code", "commit", "--quiet", "--message", "First")
    return file


def test_the_commit_of_a_clean_work_tree_is_recorded(file: Path) -> None:
    commit = code_commit(file)
    assert commit == git(file.parent, "rev-parse", "HEAD")
    assert len(commit) == 40
    file.with_name("notes.txt").write_text("not part of the code\n")
    assert code_commit(file) == commit


def test_an_uncommitted_change_is_recorded(file: Path) -> None:
    file.write_text("answer = 43\n")
    assert code_commit(file) == git(file.parent, "rev-parse", "HEAD") + "-dirty"


def test_a_copy_inside_a_work_tree_has_no_commit(file: Path) -> None:
    installed = file.parent / ".venv" / "module.py"
    installed.parent.mkdir()
    shutil.copy(file, installed)
    assert code_commit(installed) is None


def test_without_a_work_tree_or_git_there_is_no_commit(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module.py").write_text("")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_commit(tmp_path / "module.py") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_commit(file) is None


def test_the_environment_of_a_hook_does_not_mislead(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert code_commit(file) == git(file.parent, "rev-parse", "HEAD")
