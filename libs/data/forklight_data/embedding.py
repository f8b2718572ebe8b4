"""A sentence-transformers model as embedder; an extra, because it brings torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forklight_core.errors import UnavailableError


class SentenceEmbedder:
    """A model by name or folder, on the processor."""

    def __init__(self, model: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError as error:
            raise UnavailableError(
                f"step embeddings needs the package {error.name}: pip install 'forklight-data[embed]', "
                "or leave the step out"
            ) from error
        try:
            self._model = SentenceTransformer(model, device="cpu")
        except (OSError, ValueError) as error:
            raise UnavailableError(
                f"the embedding model {model!r} cannot be loaded: {str(error)[:200]}; "
                "name a folder that holds it"
            ) from error
        self.name = model

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row a text."""
        found = self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)
