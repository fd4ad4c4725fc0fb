"""The size and shape of the source tree: files, lines, import lines, levels of imports, circles, long functions.

    .venv/bin/python benchmarks/house.py [TREE ...] [--runs FOLDER]

prints a column for each tree. With `--runs`, it also runs `twinspire run` and `twinspire recommend` of each tree on the
built-in data (or that of `--config`), in a folder of its own below FOLDER, and counts the files of the product in which
they call a function.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGES = ("artefacts", "features", "towers", "training", "beam_jobs", "serving", "evaluation", "twinspire")
MOST_IMPORTS, MOST_LINES = 15, 80
# Runs as `python -c TRACED REPORT TREE ARGUMENTS`: each function of the tree notes its file when it is called. A report
# with the files is written when the process ends.
TRACED = """
import ast, atexit, builtins, importlib.machinery, json, sys
report, tree = sys.argv.pop(1), sys.argv.pop(1)
builtins.__entered__ = set()
class Marked(ast.NodeTransformer):
    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.body.insert(ast.get_docstring(node) is not None, ast.parse("__entered__.add(__file__)").body[0])
        return node
class Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, name):
        marked = ast.fix_missing_locations(Marked().visit(ast.parse(self.get_data(self.path))))
        return compile(marked, self.path, "exec", dont_inherit=True)
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.has_location and spec.origin.startswith(tree) and "/.venv/" not in spec.origin:
            spec.loader = Loader(name, spec.origin)
        return spec
sys.meta_path.insert(0, Finder)
atexit.register(lambda: open(report, "w").write(json.dumps(sorted(__entered__))))
from twinspire.cli import main
main()
"""
Graph = Mapping[str, frozenset[str]]


def main() -> None:
    """Measures each tree and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    parser.add_argument("--runs", type=Path, help="where to run each tree once; takes minutes")
    parser.add_argument("--config", type=Path, help="with --runs: data that is smaller than the built-in one")
    parser.add_argument("--user", default="1", help="with --runs: a user of the data")
    arguments = parser.parse_args()
    columns = []
    for number, tree in enumerate(arguments.trees):
        columns.append(measure(tree.resolve()))
        if arguments.runs:
            flags = [] if arguments.config is None else ["--config", str(arguments.config.resolve())]
            folder = arguments.runs.resolve() / str(number)
            entered = files_entered(tree.resolve(), folder, flags, user=arguments.user)
            columns[-1]["files entered by one run and one recommend"] = str(len(entered))
    width = max(map(len, columns[0]))
    print(f"{'':{width}}  " + "  ".join(f"{tree.resolve().name:>12}" for tree in arguments.trees))
    for name in columns[0]:
        print(f"{name:{width}}  " + "  ".join(f"{column[name]:>12}" for column in columns))


def measure(tree: Path) -> dict[str, str]:
    """Each measure of a tree by its name."""
    files = {module: path for package in PACKAGES for module, path in modules(tree, package)}
    parsed = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in files.items()}
    graph = {module: frozenset(imported(parsed[module], files) - {module}) for module in files}
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in files.items()}
    own = [module for module in files if module.partition(".")[0] == "twinspire"]
    commands = {module: graph[module] & set(own) for module in own}
    full = [module for module, path in files.items() if path.name != "__init__.py"]
    imports = sorted(num_imports(parsed[module]) for module in full)
    importers = Counter(module for targets in graph.values() for module in targets)
    names = Counter(files[module].name for module in full)
    few = sum(count <= MOST_IMPORTS for count in imports) / len(imports)
    return {
        "files": f"{len(files):,}",
        "lines": f"{sum(lines.values()):,}",
        "files of twinspire/": f"{len(own):,}",
        "lines of twinspire/": f"{sum(lines[module] for module in own):,}",
        "levels of imports in twinspire/": "circle" if circles(commands) else str(levels(commands)),
        "imports between files of twinspire/": f"{sum(map(len, commands.values())):,}",
        "import lines of nine files in ten, up to": str(imports[int(0.9 * len(imports))]),
        f"files with at most {MOST_IMPORTS} import lines": f"{few:.1%}",
        "files with one importer": str(sum(count == 1 for count in importers.values())),
        "file names in several folders": str(sum(count > 1 for count in names.values())),
        f"functions over {MOST_LINES} lines": str(sum(len(long_functions(code)) for code in parsed.values())),
        "files in a circle of imports": str(sum(map(len, circles(graph)))),
    }


def modules(tree: Path, package: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module of a package."""
    for path in sorted((tree / package).rglob("*.py")):
        yield ".".join(path.relative_to(tree).with_suffix("").parts).removesuffix(".__init__"), path


def imported(code: ast.Module, known: Mapping[str, Path]) -> set[str]:
    """Known modules that a file imports, at any depth; the product has no relative imports."""
    found = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside if inside & set(known) else {node.module}
    return found & set(known)


def num_imports(code: ast.Module) -> int:
    """Import statements at the top of a file."""
    return sum(isinstance(node, ast.Import | ast.ImportFrom) for node in code.body)


def long_functions(code: ast.Module) -> list[tuple[str, int]]:
    """Name and lines of the functions that are too long."""
    functions = [node for node in ast.walk(code) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
    return [(name, size) for name, size in sizes if size > MOST_LINES]


def levels(graph: Graph) -> int:
    """Imports on the longest chain of a graph without circles."""

    @cache
    def depth(module: str) -> int:
        return max((1 + depth(target) for target in graph[module]), default=0)

    return max(map(depth, graph), default=0)


def circles(graph: Graph) -> list[set[str]]:
    """Sets of modules that each import all the others, by way of each other (Tarjan, SIAM J. Comput. 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for target in graph[module]:
            if target not in order:
                visit(target)
            if target in stack:
                low[module] = min(low[module], low[target])
        if low[module] == order[module]:
            part = set(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(part) > 1:
                found.append(part)

    for module in graph:
        if module not in order:
            visit(module)
    return found


def files_entered(tree: Path, folder: Path, flags: list[str], *, user: str) -> set[str]:
    """Runs a tree once, recommends to one user, and returns the files of the product in which a function is called."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = ["--runs", str(folder), *flags]
    entered: set[str] = set()
    for arguments in (["run", *runs], ["recommend", *runs, "--user", user]):
        report = folder / f"{arguments[0]}.json"
        environment = {**os.environ, "PYTHONPATH": str(tree), "TF_USE_LEGACY_KERAS": "1"}
        command = [sys.executable, "-c", TRACED, str(report), str(tree), *arguments]
        subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
        paths = [Path(name) for name in json.loads(report.read_text(encoding="utf-8"))]
        entered |= {str(path) for path in paths if path.is_relative_to(tree) and (tree / ".venv") not in path.parents}
    return entered


if __name__ == "__main__":
    main()
