"""Triton's kernels run interpreted where there is no GPU."""

import os

import torch

if not torch.cuda.is_available():  # Triton decides at its import whether it interprets
    os.environ.setdefault("TRITON_INTERPRET", "1")
