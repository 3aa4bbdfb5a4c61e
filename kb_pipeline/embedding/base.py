"""What the rest of the project may expect of an embedder.

What belongs here: the protocol alone. Implementations live in their own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
"""float32; (n, dimension) for many texts, (dimension,) for one."""


class Embedder(Protocol):
    """Turns texts into vectors. A text's vector depends on the text and `model_id` alone, never on its neighbours."""

    @property
    def model_id(self) -> str:
        """32 hex digits. Two embedders with the same id give the same vectors (to rounding across device kinds)."""

    @property
    def dimension(self) -> int:
        """Numbers per vector."""

    @property
    def max_tokens(self) -> int:
        """Tokens of a document's own text that the model reads; what follows is cut off."""

    def embed(
        self,
        texts: Sequence[str],
        n_tokens: Sequence[int] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Vectors:
        """Vectors of document texts, (n, dimension) float32, in the order given.

        `n_tokens` is a hint for batching: a wrong one costs time, never a different vector. `on_progress` is called
        after each batch with the number of texts in it; over the call these add up to n.
        """

    def embed_query(self, text: str) -> Vectors:
        """Vector of a search query, (dimension,) float32, with the model's query prompt where it has one."""
