"""The documentation matches the code: blocks that load, and keys, files, papers and links that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from training.method_checks import method_warnings
from twinspire.config import Config
from twinspire.load_config import load

REPOSITORY = Path(__file__).parents[1]
METHODS = REPOSITORY / "docs" / "methods.md"
JOURNEY = REPOSITORY / "configs" / "complete_journey.yaml"
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", METHODS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
BIB_KEYS = re.findall(r"^@\w+\{([^,]+),", (REPOSITORY / "docs" / "references.bib").read_text(), re.MULTILINE)


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is no section; a list is a value."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def exists(key: str) -> bool:
    """Whether a dotted key is one of the configuration."""
    model: type[BaseModel] | None = Config
    for name in key.split("."):
        if model is None or name not in model.model_fields:
            return False
        annotation = model.model_fields[name].annotation
        kinds = [annotation, *getattr(annotation, "__args__", ())]
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return True


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked to by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_blocks_to_load() -> None:
    assert len(BLOCKS) > 15


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_loads_within_a_configuration_and_sets_what_it_shows(block: str) -> None:
    wanted = dict(leaves(yaml.safe_load(block)))
    config = load(JOURNEY, [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in wanted.items()])
    resolved = dict(leaves(config.model_dump(mode="json")))
    assert {key: resolved[key] for key in wanted} == wanted
    assert config != load(JOURNEY)
    assert method_warnings(config.towers, config.training) == []


def test_every_key_in_the_text_is_one_of_the_configuration() -> None:
    sections = "|".join(Config.model_fields)
    found = re.findall(rf"`((?:{sections})\.[a-z_.]+)(?:: [^`]*)?`", METHODS.read_text(encoding="utf-8"))
    assert len(found) > 20
    assert [key for key in found if not exists(key)] == []


def test_every_paper_in_brackets_has_its_entry_and_every_entry_a_name_of_its_own() -> None:
    cited = set(re.findall(r"\[([a-z]+\d{4}[a-z0-9]*)\]", METHODS.read_text(encoding="utf-8")))
    assert len(cited) > 8
    assert cited - set(BIB_KEYS) == set()
    assert len(BIB_KEYS) == len(set(BIB_KEYS))


def test_every_named_file_exists() -> None:
    folders = "features|towers|training|beam_jobs|serving|evaluation|twinspire|tests|configs"
    missing = [
        f"{page.relative_to(REPOSITORY)}: {name}"
        for page in PAGES
        for name in re.findall(rf"`((?:{folders})/[\w/]+\.(?:py|yaml))`", page.read_text(encoding="utf-8"))
        if not (REPOSITORY / name).exists() and "my_shop" not in name
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_has_a_target(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    broken = []
    for link in links:
        if link.startswith("http"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert broken == []
