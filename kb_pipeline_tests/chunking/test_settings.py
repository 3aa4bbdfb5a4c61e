"""Which settings hold for a media type."""

from __future__ import annotations

import pytest

from kb_pipeline.chunking.settings import ChunkerName, Chunkers, ChunkerSettings, Override, default_chunker

GENERAL = ChunkerSettings(254, 20, False)


def test_each_modality_has_its_chunker() -> None:
    chunkers = Chunkers(GENERAL)
    expected = {
        "text/markdown": "prose",
        "application/pdf": "prose",
        "text/x-source": "code",
        "text/csv": "table",
        "text/tab-separated-values": "table",
        "application/jsonl": "table",
        "application/x-ipynb+json": "notebook",
    }
    for media_type, name in expected.items():
        assert chunkers.settings(media_type) == ChunkerSettings(254, 20, False, ChunkerName(name))
        assert default_chunker(media_type) == name


def test_a_media_type_goes_before_its_family_key_by_key() -> None:
    chunkers = Chunkers(GENERAL, {"text/*": Override(tokens=64, overlap=0), "text/csv": Override(tokens=128)})
    assert chunkers.settings("text/csv") == ChunkerSettings(128, 0, False, ChunkerName.TABLE)
    assert chunkers.settings("text/plain") == ChunkerSettings(64, 0, False, ChunkerName.PROSE)
    assert chunkers.settings("application/pdf") == GENERAL


def test_all_keys_can_be_overridden() -> None:
    chunkers = Chunkers(GENERAL, {"text/plain": Override(ChunkerName.TABLE, 40, 4, True)})
    assert chunkers.settings("text/plain") == ChunkerSettings(40, 4, True, ChunkerName.TABLE)


def test_senseless_combinations_are_refused() -> None:
    with pytest.raises(ValueError, match="text/csv: overlap must be"):
        Chunkers(GENERAL, {"text/csv": Override(tokens=32)})
