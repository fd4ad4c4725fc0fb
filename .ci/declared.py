"""What setup.py declares, as two requirements files for deptry, which reads no setup.py.

    python .ci/declared.py FOLDER

writes product.txt (with the extras that users install) and development.txt.
"""

import sys
from pathlib import Path

import setuptools  # noqa: F401  (gives Python 3.12 and later distutils)

from distutils.core import run_setup  # isort: skip

DEVELOPMENT = "dev"

declared = run_setup("setup.py", stop_after="init")
extras = dict(declared.extras_require)
development = extras.pop(DEVELOPMENT)
product = [*declared.install_requires, *(requirement for extra in extras.values() for requirement in extra)]
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for name, requirements in (("product", product), ("development", development)):
    (folder / f"{name}.txt").write_text("".join(f"{requirement}\n" for requirement in requirements), encoding="utf-8")
