"""Packaging of espnet_dynsize."""

from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup

TRAIN = ["editdistance", "tensorboard"]
ABOUT = run_path(str(Path(__file__).parent / "espnet_dynsize/core/about.py"))

setup(
    name="espnet_dynsize",
    version=ABOUT["VERSION"],
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
        "jiwer>=3",
        "humanfriendly",
        "matplotlib",
        "numpy",
        "soundfile",
        "tqdm",
    ],
    extras_require={
        # What ESPnet's training imports with its default options
        "train": TRAIN,
        "demo": [*TRAIN, "espeakng-loader"],
        "espnet3": ["espnet[train]", "hydra-core", "lightning"],
        "export": ["onnx", "onnxruntime", "flashlight-text"],
        "hub": ["huggingface_hub"],
        "dev": [
            "pytest",
            "pytest-xdist",
            "ruff==0.17.6",
            "espeakng-loader",
            "espnet[train]",
            "onnx",
            "onnxruntime",
            "flashlight-text",
            "sherpa-onnx",
            "kaldi-native-fbank",
        ],
    },
    entry_points={"console_scripts": ["espnet-dynsize=espnet_dynsize.bin.main:main"]},
)
