"""Installs data_prep, pretrain and launch; requirements.lock holds the versions that were tested."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="biomed-pretrain",
    version="0.1.0",
    description="Continued pretraining of language models on PubMed-scale corpora",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["data_prep*", "pretrain*", "launch*"]),
    package_data={"": ["**/*.xml", "**/*.json", "**/*.jsonl", "**/*.jinja", "*.md", "**/*.sbatch"]},
    install_requires=[
        # reading and cleaning text
        "aiohttp>=3.11",
        "datatrove>=0.10",
        "dill>=0.3",
        "httpx2>=2.16",
        "isal>=1.7",
        "langcodes>=3.5",
        "lxml>=5.3",
        "lxml-html-clean>=0.4",  # justext, which trafilatura brings, needs it; the lock would miss it
        "orjson>=3.10",
        "py3langid>=0.3",
        "regex>=2024.11",
        "s3fs>=2025.3",
        "trafilatura>=2.0",
        "xxhash>=3.5",
        "zstandard>=0.23",
        # tokenizers and shards
        "gigatoken>=0.10",
        "numpy>=2.0",
        "pandas>=2.2",
        "pyarrow>=18",
        "sentencepiece>=0.2",
        "tokenizers>=0.21",
        # training: torch's and DeepSpeed's numerics are tested on these ranges only
        "accelerate>=1.1",  # transformers' ZeRO-3 integration asks for it
        "datasets>=4.0",
        "deepspeed>=0.19.4,<0.20",
        "ninja",  # builds DeepSpeed's communication op on CPU
        "peft>=0.18",
        "torch>=2.11,<2.14",
        "transformers>=5.5,<6",
        "wandb>=0.20",
        # config and display
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "pydantic>=2.10",
        "pyyaml>=6.0",
        "rich>=13.9",
    ],
    extras_require={
        "gpu": ["flash-attn>=2.7"],
        "ray": ["ray>=2.40"],
        "eval": ["lm-eval>=0.4.9"],
        "dev": [
            "hypothesis>=6",
            "moto[server]>=5.1",
            "mypy>=1.13",
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ray>=2.40",
            "ruff>=0.8",
            "types-PyYAML",
        ],
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
    ],
)
