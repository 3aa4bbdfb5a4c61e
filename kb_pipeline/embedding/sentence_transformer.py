"""Embeds with a sentence-transformers model.

What belongs here: loading the weights, batching by padded length, and going on when memory runs out.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kb_pipeline.embedding.base import Vectors
from kb_pipeline.embedding.errors import EmbeddingError, ModelMismatch, UnsupportedModel
from kb_pipeline.embedding.memory import return_freed_memory
from kb_pipeline.embedding.model_files import NUMERIC_CLASSES, ModelFiles
from kb_pipeline.embedding.padding import PADDING_MULTIPLE, padded_length

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger(__name__)

# Texts tokenized at once: bounds the memory of token ids, and is far more than one batch needs.
_WINDOW_TEXTS = 256

_Row = tuple[int, dict[str, Any]]


class SentenceTransformerEmbedder:
    """An `Embedder` over a sentence-transformers model; the weights are loaded when the first text comes.

    On one kind of device, a text's vector is bitwise the same whatever else is embedded with it (see `padding`).
    Safe to use from several threads, which take turns at the model.
    """

    def __init__(self, files: ModelFiles, device: str = "auto", dtype: str = "auto", batch_tokens: int = 4096) -> None:
        """Remembers what to load. Reads nothing.

        `device`: "auto" (cuda, then mps, then cpu), or a torch device such as "cuda:1".
        `dtype`: "fp32", "bf16" or "fp16". "auto" is fp32 on every device: another numeric class is another model id,
        so the machine that happens to run must not choose it.
        `batch_tokens`: padded tokens per forward pass; one text always fits.
        Raises ValueError for an unknown dtype or a batch_tokens below 1.
        """
        self._numeric_class = "fp32" if dtype == "auto" else dtype
        if self._numeric_class not in NUMERIC_CLASSES:
            raise ValueError(f"dtype {dtype!r} is none of auto, {', '.join(NUMERIC_CLASSES)}")
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, not {batch_tokens}")
        self._files = files
        self._device = device
        self._batch_tokens = batch_tokens
        self._model: Any = None
        self._padded = False
        # Tokenizers keep truncation and padding as mutable state, so tokenizing needs the lock as much as the model.
        self._lock = threading.RLock()

    @property
    def model_id(self) -> str:
        return self._files.model_id(self._numeric_class)

    @property
    def dimension(self) -> int:
        if self._files.dimension is not None:
            return self._files.dimension
        return int(self._load().get_embedding_dimension())

    @property
    def max_tokens(self) -> int:
        return self._files.max_tokens

    @property
    def device(self) -> str:
        """Where the model is, as torch names it; loads it."""
        return str(self._load().device)

    def embed(
        self,
        texts: Sequence[str],
        n_tokens: Sequence[int] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Vectors:
        """See `Embedder.embed`. Raises EmbeddingError, and torch's own error when one text alone exceeds memory."""
        if n_tokens is not None and len(n_tokens) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(n_tokens)} token counts")
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        hints = n_tokens if n_tokens is not None else [len(text) for text in texts]
        # Longest first: should memory not suffice, that shows at once.
        order = sorted(range(len(texts)), key=lambda i: -hints[i])
        for rows, result in self._run(texts, order, self._files.document_prompt, "document"):
            vectors[rows] = result
            if on_progress is not None:
                on_progress(len(rows))
        return vectors

    def embed_query(self, text: str) -> Vectors:
        """See `Embedder.embed_query`."""
        ((_, result),) = self._run([text], [0], self._files.query_prompt, "query")
        vector: Vectors = result[0]
        return vector

    def _run(self, texts: Sequence[str], order: list[int], prompt: str, task: str) -> Iterator[tuple[list[int], Vectors]]:
        """Yields (positions in texts, their vectors), batch by batch."""
        self._load()
        if not self._padded:
            yield from self._run_one_by_one(texts, order, prompt, task)
            return
        budget = _Budget(self._batch_tokens)
        waiting: dict[int, list[_Row]] = {}
        last = 0
        for start in range(0, len(order), _WINDOW_TEXTS):
            window = order[start : start + _WINDOW_TEXTS]
            for length, row in self._tokenize([texts[i] for i in window], window, prompt, task):
                bucket = waiting.setdefault(length, [])
                bucket.append(row)
                if len(bucket) >= budget.texts(length):
                    if last not in (0, length):
                        return_freed_memory()
                    last = length
                    yield from self._run_bucket(waiting.pop(length), length, budget)
        for length in sorted(waiting, reverse=True):
            if last not in (0, length):
                return_freed_memory()
            last = length
            yield from self._run_bucket(waiting.pop(length), length, budget)

    def _tokenize(self, texts: list[str], positions: list[int], prompt: str, task: str) -> Iterator[tuple[int, _Row]]:
        """Yields (padded length, (position, features cut or padded to that length)) for each text."""
        limit = self._files.max_seq_length
        # The tokenizer refuses to round up a limit that is no multiple; then every row starts at the limit.
        rounding = {"padding": "longest", "pad_to_multiple_of": PADDING_MULTIPLE}
        text_kwargs = rounding if limit % PADDING_MULTIPLE == 0 else {"padding": "max_length", "max_length": limit}
        with self._lock:
            features = self._model.preprocess(
                [_encodable(t) for t in texts],
                prompt=prompt or None,
                task=task,
                processing_kwargs={"text": text_kwargs},
            )
            left = self._model.tokenizer.padding_side == "left"
        mask = features["attention_mask"]
        width = mask.shape[1]
        counts = mask.sum(dim=1).tolist()
        for row, position in enumerate(positions):
            length = padded_length(counts[row], min(limit, width))
            columns = slice(width - length, width) if left else slice(0, length)
            cut = {k: v[row, columns] if _is_matrix(v, mask) else v for k, v in features.items()}
            yield length, (position, cut)

    def _run_bucket(self, bucket: list[_Row], length: int, budget: _Budget) -> Iterator[tuple[list[int], Vectors]]:
        start = 0
        while start < len(bucket):
            part = bucket[start : start + budget.texts(length)]
            try:
                result = self._forward([features for _, features in part])
            except RuntimeError as error:
                if not _is_out_of_memory(error) or not self._yield_memory(len(part), length, budget):
                    raise
            else:
                yield [position for position, _ in part], result
                start += len(part)

    def _forward(self, rows: list[dict[str, Any]]) -> Vectors:
        """One pass of rows of equal padded length, (n, dimension) float32."""
        import torch

        with self._lock, torch.inference_mode():
            device = self._model.device
            batch = {
                key: torch.stack([row[key] for row in rows]).to(device) if isinstance(value, torch.Tensor) else value
                for key, value in rows[0].items()
            }
            result: Vectors = self._model(batch)["sentence_embedding"].float().cpu().numpy()
            return result

    def _yield_memory(self, n_texts: int, length: int, budget: _Budget) -> bool:
        """Makes the next attempt smaller. False when there is nothing left to make smaller."""
        import torch

        with self._lock:
            device = self._model.device.type
            if device == "cuda":
                torch.cuda.empty_cache()
            elif device == "mps":
                torch.mps.empty_cache()
            if n_texts > 1:
                budget.tokens = max(1, n_texts // 2 * length)
                _logger.warning(
                    "Out of memory on %s with %d texts of %d tokens: going on with half", device, n_texts, length
                )
                return True
            if device == "cpu":
                return False
            _logger.warning("One text of %d tokens exceeds the memory of %s: going on with the CPU", length, device)
            self._model.to("cpu")
            _use_all_cores()
            budget.tokens = self._batch_tokens
            return True

    def _run_one_by_one(
        self, texts: Sequence[str], order: list[int], prompt: str, task: str
    ) -> Iterator[tuple[list[int], Vectors]]:
        """For models that don't start with a plain text transformer: alone in its batch, a text has no neighbours."""
        for position in order:
            with self._lock:
                result = self._model.encode(
                    [_encodable(texts[position])], prompt=prompt, task=task, batch_size=1, show_progress_bar=False
                )
            yield [position], np.asarray(result, dtype=np.float32)

    def _load(self) -> Any:
        with self._lock:
            if self._model is None:
                self._model = self._loaded()
            return self._model

    def _loaded(self) -> Any:
        # Read when the library is first imported, which may be now.
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Transformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        device = _choose_device(self._device)
        if device == "cpu":
            _use_all_cores()
            _sum_in_one_order()
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self._numeric_class]
        model = SentenceTransformer(
            str(self._files.folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
        )
        model.to(dtype=dtype)
        model.eval()
        others = {str(m) for m in model.modalities} - {"text", "message"}
        if others:
            # sentence-transformers would open a text that looks like the address of an image.
            raise UnsupportedModel(f"The model {self._files.name} takes {', '.join(sorted(others))}: use one for text only.")
        dimension = model.get_embedding_dimension()
        if self._files.dimension not in (None, dimension):
            raise ModelMismatch(
                f"{self._files.folder} says its vectors have {self._files.dimension} numbers; they have {dimension}."
            )
        self._padded = isinstance(model[0], Transformer) and "message" not in model.modalities
        if self._padded:
            # What the model id says is what is done.
            model.max_seq_length = self._files.max_seq_length
        return model


class _Budget:
    """Padded tokens per forward pass, lowered within a call when memory runs out."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def texts(self, length: int) -> int:
        return max(1, self.tokens // length)


def _is_matrix(value: Any, mask: torch.Tensor) -> bool:
    return getattr(value, "shape", None) == mask.shape


def _encodable(text: str) -> str:
    """The text with lone surrogates, which no tokenizer takes, replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _choose_device(device: str) -> str:
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.split(":")[0]
    if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not torch.backends.mps.is_available()):
        raise EmbeddingError(f"The device {device!r} is not available to torch {torch.__version__}: use auto or cpu.")
    return device


def _use_all_cores() -> None:
    import psutil
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        return
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Two threads on one physical core only get in each other's way here.
    available = min(allowed, psutil.cpu_count(logical=False) or allowed)
    if torch.get_num_threads() < available:
        torch.set_num_threads(available)


def _sum_in_one_order() -> None:
    """Have a row of a matrix product come out the same to the last bit however many rows there are.

    MKL picks kernels by shape, and on some processors they sum in another order for a few rows than for many. Its strict
    mode (Intel, "Conditional Numerical Reproducibility") doesn't; it costs nothing that could be measured. MKL reads the
    variable at its first product, and other libraries take no notice of it.
    """
    import torch

    kernels = torch.backends.cpu.get_cpu_capability()
    if kernels in ("AVX2", "AVX512"):
        os.environ.setdefault("MKL_CBWR", f"{kernels},STRICT")


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in message for sign in ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")
    )
