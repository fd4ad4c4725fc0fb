"""The installed package is complete, owns its names, and its dependencies are declared and locked."""

from __future__ import annotations

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("artefacts", "beam_jobs", "evaluation", "features", "serving", "towers", "training", "twinspire")
PYTHONS = ("3.11", "3.12", "3.13")


def ours(pattern: str) -> set[str]:
    """Files of the product that match, relative to the repository."""
    paths = (path for package in PACKAGES for path in (REPOSITORY / package).rglob(pattern))
    return {str(path.relative_to(REPOSITORY)) for path in paths if path.is_file() and "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, made as Beam makes it, and a wheel."""
    folder = tmp_path_factory.mktemp("built")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE", "MANIFEST.in", "README.md"):
        if (REPOSITORY / name).exists():
            shutil.copy(REPOSITORY / name, checkout)
    for package in (*PACKAGES, "tests"):
        shutil.copytree(REPOSITORY / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    # Setuptools' own deprecations are no concern of this product.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    for kind in ("sdist", "bdist_wheel"):
        command = [sys.executable, "setup.py", "--quiet", kind, "--dist-dir", str(folder)]
        ran = subprocess.run(command, cwd=checkout, env=environment, check=False, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    return folder


@functools.cache
def locked() -> dict[str, list[tuple[Version, Requirement]]]:
    """Every version in the lock by distribution, with the marker under which it holds."""
    lock: dict[str, list[tuple[Version, Requirement]]] = {}
    for line in (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            requirement = Requirement(line.removesuffix("\\").strip())
            (pin,) = requirement.specifier
            lock.setdefault(canonicalize_name(requirement.name), []).append((Version(pin.version), requirement))
    return lock


@functools.cache
def declared() -> list[Requirement]:
    """Every requirement of the installed product, those of its extras included."""
    return [Requirement(text) for text in metadata.requires("twinspire") or ()]


def test_no_other_distribution_owns_our_names() -> None:
    owners = metadata.packages_distributions()
    found = {package: sorted(set(owners.get(package, []))) for package in PACKAGES}
    assert found == {package: ["twinspire"] for package in PACKAGES}


def test_every_folder_with_modules_is_packaged_or_known() -> None:
    folders = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
    assert folders == set(PACKAGES)


def test_setup_imports_nothing_but_setuptools() -> None:
    tree = ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    imported = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imported == ["from setuptools import find_packages, setup"]


def test_the_wheel_holds_every_module_and_template_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == ours("*.py") | ours("templates/*") | ours("web/page/*")


def test_the_sdist_holds_every_module_and_template(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert ours("*.py") | ours("templates/*") | ours("web/page/*") | {"setup.py", "pyproject.toml", "LICENSE"} <= held


def test_the_wheel_imports_from_another_directory(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = "import twinspire.config as it; print(it.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert Path(ran.stdout.strip()).is_relative_to(installed)


def test_the_version_is_written_once(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"twinspire-{metadata.version('twinspire')}-py3-none-any.whl"


def test_the_changelog_begins_with_this_version_and_the_citation_names_its_latest_release() -> None:
    versions = re.findall(
        r"^## \[(.+)\] - (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert f'version="{versions[0][0]}"' in (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    released = next(release for release in versions if release[1] != "unreleased")
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], str(citation["date-released"])) == released


def test_tests_are_no_package() -> None:
    assert list((REPOSITORY / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_covers_declared_dependencies(python: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    wrong = []
    for wanted in declared():
        fitting = [
            version
            for version, pin in locked().get(canonicalize_name(wanted.name), [])
            if pin.marker is None or pin.marker.evaluate(environment)
        ]
        if len(fitting) != 1 or not wanted.specifier.contains(fitting[0], prereleases=True):
            wrong.append(f"{wanted} against {', '.join(map(str, fitting)) or 'nothing'}")
    assert declared()
    assert wrong == [], "run `make lock`"


def test_the_lock_names_no_place_and_checks_hashes() -> None:
    text = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    assert re.findall(r"://|--(?:extra-)?index-url|--find-links| @ ", text) == []
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=[A-Za-z0-9])", text)[1:])


def test_the_supported_pythons_are_those_of_the_lock() -> None:
    supported = SpecifierSet(metadata.metadata("twinspire")["Requires-Python"])
    assert [minor for minor in range(8, 20) if f"3.{minor}.1" in supported] == [int(text[2:]) for text in PYTHONS]
