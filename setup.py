"""Packaging of espnet_dynsize."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="espnet_dynsize",
    version="0.1.0",
    description="ESPnet plugin: one training run, many encoder sizes",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.12,<3.14",
    packages=find_packages(include=["espnet_dynsize", "espnet_dynsize.*"]),
    package_data={"espnet_dynsize.demo": ["*.yaml"]},
    install_requires=[
        "espnet>=202611",
        "torch",
        "torchaudio",
        "sentencepiece",
        "pyyaml",
        "jiwer",
        "editdistance",  # ESPnet's CER while training
        "tensorboard",  # ESPnet's default logger
        "matplotlib",
        "tqdm",
    ],
    extras_require={
        "demo": ["espeakng-loader"],
        "espnet3": ["espnet[train]"],
        "dev": ["pytest", "ruff==0.17.6", "espeakng-loader", "espnet[train]"],
    },
    entry_points={"console_scripts": ["espnet-dynsize=espnet_dynsize.bin.main:main"]},
)
