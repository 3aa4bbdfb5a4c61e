"""kb_pipeline: keeps a knowledge base in step with many sources, on Dagster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kb_pipeline.batch import Batch, process_batch

__version__ = "0.1.0"
__all__ = ["Batch", "process_batch"]


def __getattr__(name: str) -> Any:
    # At first use: `import kb_pipeline` comes before every command and every parser process, and must cost nothing.
    if name in __all__:
        from kb_pipeline import batch

        return getattr(batch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
