"""The benchmark on published splits chooses on train alone and reports what it did."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from twinspire.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty users in two groups that meet only items of their group; some of them are to be found."""
    out = tmp_path_factory.mktemp("split")
    rng = np.random.default_rng(1)
    lines = {"train.txt": [], "test.txt": []}
    for user in range(60):
        items = user % 2 * 40 + rng.choice(40, 16, replace=False)
        lines["train.txt"].append(f"{user} {' '.join(map(str, items[:12]))}")
        lines["test.txt"].append(f"{user} {' '.join(map(str, items[12:]))}")
    lines["test.txt"][0] += " 500"
    for name, text in lines.items():
        (out / name).write_text("\n".join(text) + "\n")
    return out


def run(folder, *more):
    return CliRunner().invoke(app, ["benchmark", "lightgcn", "--data", str(folder), "--dim", "8", *more])


@pytest.mark.slow
def test_it_finds_items_of_the_group_and_reports_how(folder, tmp_path):
    result = run(folder, "--json", str(tmp_path / "out.json"))
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())
    # By chance 20 of the 68 unknown items would be .29; knowing the group, 20 of 28 is .71.
    assert found["recall@20"] > 0.55
    assert 0 < found["ndcg@20"] < 1
    assert found["num_test_items_unseen"] == 1
    assert "1 items of test that train lacks" in result.output
    best = max(found["trials"], key=lambda trial: trial["recall@20"])
    assert {key: best[key] for key in found["towers"]} == found["towers"]
    assert {key: best[key] for key in found["query"]} == found["query"]
    # One of the eight coordinates is the items' popularity.
    assert (found["vector_width"], found["towers"]["embedding_dim"]) == (8, 7)
    assert found["training_examples_per_second"] > 0


@pytest.mark.slow
def test_the_choice_does_not_depend_on_test(folder, tmp_path):
    """Another test file with the same ids gives the same settings and the same trials."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "train.txt").write_bytes((folder / "train.txt").read_bytes())
    first, *rest = (folder / "test.txt").read_text().splitlines()
    items = [line.split(" ", 1)[1] for line in [first, *rest]]
    turned = [f"{user} {text}" for user, text in enumerate([*items[1:], items[0]])]
    (other / "test.txt").write_text("\n".join(turned) + "\n")
    found = []
    for number, data in enumerate((folder, other)):
        assert run(data, "--json", str(tmp_path / f"{number}.json")).exit_code == 0
        found.append(json.loads((tmp_path / f"{number}.json").read_text()))
    assert found[0]["trials"] == found[1]["trials"]
    assert found[0]["recall@20"] != found[1]["recall@20"]


@pytest.mark.slow
def test_sparcode_is_chosen_on_train_and_compared_with_the_towers_under_it(folder, tmp_path):
    result = run(folder, "--model", "sparcode", "--json", str(tmp_path / "out.json"))
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())
    sparcode = found["sparcode"]
    assert found["recall@20"] > 0.55
    assert sparcode["recall@20"] > 0.55
    assert found["recall@20"] <= found["recall@50"] <= 1
    assert sparcode["recall@20"] <= sparcode["recall@50"] <= 1
    best = max(sparcode["trials"], key=lambda trial: trial["recall@20"])
    assert {key: best[key] for key in sparcode["choice"]} == sparcode["choice"]
    for name, figures in (("two-tower", found), ("SparCode", sparcode)):
        shown = "  ".join(f"{key} {figures[key]:.4f}" for key in ("recall@20", "ndcg@20", "recall@50"))
        assert f"{name:<9}  {shown}" in result.output


def test_a_missing_model_is_refused(folder):
    result = run(folder, "--model", "tree")
    assert result.exit_code == 2
    assert "'tree' is not one of 'two-tower', 'sparcode'" in " ".join(result.output.replace("│", "").split())


def test_a_malformed_line_is_one_message_and_exit_code_1(folder, tmp_path):
    (tmp_path / "train.txt").write_text("1 2\n3 four\n")
    (tmp_path / "test.txt").write_text("1 5\n")
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "line 2: found 'four'" in result.output
    assert "Traceback" not in result.output
