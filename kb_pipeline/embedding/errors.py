"""What can go wrong between a text and its vector.

What belongs here: the exceptions of this package, each with a message that a person can act on.
"""

from __future__ import annotations


class EmbeddingError(Exception):
    """Base of all errors of this package; raised itself when a model gives vectors that can't be used."""


class ModelNotFound(EmbeddingError):
    """The model named in the settings is not on this machine, or its folder lacks a file."""


class ModelMismatch(EmbeddingError):
    """The model's files are not the ones that were asked for."""


class UnsupportedModel(EmbeddingError):
    """The model is there but can't be used safely: pickled weights, an adapter, inputs other than text."""


class VectorStoreError(EmbeddingError):
    """The vector store holds something other than what its name promises."""
