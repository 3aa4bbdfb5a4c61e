"""Documents to chunks: which chunker's eyes a document is seen with, and the laws of chunks.

What belongs here: choosing the layout. What doesn't: making one (prose, code, notebook, tables), cutting by it (cutter).
"""

from __future__ import annotations

from kb_pipeline.chunking import code, notebook, prose
from kb_pipeline.chunking.cutter import Chunk, Cutter, Measured
from kb_pipeline.chunking.layout import Layout
from kb_pipeline.chunking.settings import MAX_CHARACTERS_PER_TOKEN, ChunkerName, ChunkerSettings
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.spans import stripped_span

# To be raised whenever the chunks of any document change.
CHUNKER_VERSION = "2"

_QUOTED = frozenset({"text/csv", "text/tab-separated-values"})


def chunk(document: Document, tokenizer: Tokenizer, settings: ChunkerSettings) -> list[Chunk]:
    """Cut ``document`` into chunks. The same input gives the same chunks; a blank text gives none.

    The laws: the chunks are in order and cover every character; without overlap they join up to the text. None is
    blank. None has more than ``settings.tokens`` tokens when its prefix and text are tokenized by themselves. A formula,
    a code block or a table row that fits into a chunk (in tokens, and MAX_CHARACTERS_PER_TOKEN) lies whole in one; a
    longer one is cut at its lines, then spaces, then characters, and its chunks are marked ``partial``. A heading begins
    a new chunk, unless the one before it would have less than a quarter of ``tokens``.
    """
    if not document.text.strip():
        return []
    measured = Measured(document.text, tokenizer)
    return list(Cutter(measured, _layout(document, measured, settings), settings).chunks())


def _layout(document: Document, measured: Measured, settings: ChunkerSettings) -> Layout:
    text, blocks = document.text, document.blocks
    longest = settings.tokens * MAX_CHARACTERS_PER_TOKEN
    if settings.chunker is ChunkerName.CODE and blocks and all(block.kind is BlockKind.CODE for block in blocks):
        return code.layout(blocks, lambda start, end: measured.fits(start, end, settings.tokens))
    if settings.chunker is ChunkerName.NOTEBOOK:
        return notebook.layout(text, blocks, longest)
    if settings.chunker is ChunkerName.TABLE:
        if not any(block.kind is BlockKind.TABLE for block in blocks):
            blocks = tuple(Block(BlockKind.TABLE, *span) for span in stripped_span(text, 0, len(text)))
        return prose.layout(text, blocks, longest, quoted_rows=document.media_type in _QUOTED)
    return prose.layout(text, blocks, longest)
