from __future__ import annotations

import pickle
import sys
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kb_pipeline.settings.errors import ConfigError
from kb_pipeline.settings.load import load
from kb_pipeline.settings.model import Keys, Settings
from kb_pipeline.settings.secrets import SecretEnv
from kb_pipeline.settings.template import template
from kb_pipeline.sources.base import SourceConfig
from kb_pipeline.sources.local_directory import LocalDirectoryConfig
from kb_pipeline.sources.registry import GROUP
from kb_pipeline.sources.upload import Upload, UploadConfig
from kb_pipeline.storage.bucket import S3Location


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kb.yaml"


def given_text(file: Path, text: str) -> Settings:
    file.write_text(text, encoding="utf-8")
    return load(file)


def problems(file: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        given_text(file, text)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(str(file)) for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


def problem(file: Path, text: str) -> str:
    (line,) = problems(file, text)
    return line


def test_the_template_loads_and_shows_every_key_with_its_default(file: Path) -> None:
    settings = given_text(file, template())
    (documents, inbox) = settings.sources
    assert documents == LocalDirectoryConfig(name="documents", type="local_directory", path="./documents")
    assert inbox == UploadConfig(name="inbox", type="upload")
    bare = given_text(file, "storage: {url: ./.kb}")
    assert settings.model_copy(update={"sources": bare.sources}) == bare
    text = template()
    for name, field in Keys.model_fields.items():
        assert f"\n{field.alias or name}:" in text
        for key in getattr(field.annotation, "model_fields", {}):
            assert f" {key}:" in text


def test_the_template_loads_with_the_other_types_uncommented(file: Path) -> None:
    text = template().replace("  # - name", "  - name").replace("  #   ", "    ")
    assert [s.name for s in given_text(file, text).sources] == ["documents", "archive", "scans", "inbox"]


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/kb.yaml").write_text("storage: {url: data}\nmodel: {name: ./model}")
    monkeypatch.chdir(tmp_path)
    settings = load(Path("project/kb.yaml"))
    assert settings.base == tmp_path / "project"
    assert settings.path == tmp_path / "project/kb.yaml"
    assert settings.local_root == settings.context.storage == tmp_path / "project/data"
    assert settings.model_location == str(tmp_path / "project/model")


def test_a_model_name_stays_a_name_unless_the_folder_is_there(file: Path) -> None:
    settings = given_text(file, "model: {name: org/model}")
    assert settings.model_location == "org/model"
    (file.parent / "org/model").mkdir(parents=True)
    assert settings.model_location == str(file.parent / "org/model")


def test_limits_merge_the_profile_and_the_overrides(file: Path) -> None:
    settings = given_text(file, "profile: low-memory\nlimits: {parse_seconds: 5, max_item_bytes: null}")
    assert settings.limits.parse_seconds == 5
    assert settings.limits.max_item_bytes == 16 << 20
    other = settings.with_profile("high-throughput")
    assert (other.limits.parse_seconds, other.limits.batch_tokens) == (5, 8192)
    assert settings.limits.batch_tokens == 2048
    with pytest.raises(ValueError, match="balanced"):
        settings.with_profile("fast")


def test_sections_left_empty_are_defaults_and_the_inbox_can_be_spelled_out(file: Path) -> None:
    settings = given_text(file, "sources:\nlimits:\npools:\n")
    assert [s.name for s in settings.sources] == ["inbox"]
    settings = given_text(file, "sources:\n- {name: inbox, type: upload, shards: 4}\npools: {cpu: 3}")
    assert [(s.name, s.shards) for s in settings.sources] == [("inbox", 4)]
    assert settings.pools == {"gpu": 1, "cpu": 3}
    assert settings.source("inbox").type == "upload"


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kb\.yaml: .*kb init"):
        load(tmp_path / "kb.yaml")
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", " the file is empty"),
        ("# nothing\n", " the file is empty"),
        ("- a", "1: expected a mapping"),
        ("just text", "1: expected a mapping"),
        ("a: b: c", "1: not valid YAML"),
        ("profile: balanced\nmodel: [", "2: not valid YAML"),
        ("model:\n\tname: x", "2: a tab"),
        ("a: 1\n---\nb: 2", "2: expected one YAML document"),
        ("profile: balanced\nprofile: balanced", "2: profile: duplicate key: it already stands on line 1"),
        ("model:\n  name: a\n  device: cpu\n  name: b", "4: model.name: duplicate key: it already stands on line 2"),
        ("profil: balanced", '1: profil: unknown key, nearest: "profile"'),
        ("\nmodel:\n  nam: x", '3: model.nam: unknown key, nearest: "name"'),
        ("path: x", "1: path: unknown key"),
        ("limit_overrides: {}", '1: limit_overrides: unknown key, nearest: "limits"'),
        ("scope: []", "1: scope: not available in this version"),
        ("evaluation: {}", "1: evaluation: not available in this version"),
        ("profile: fast", '1: profile: expected "low-memory", "balanced" or "high-throughput", got "fast"'),
        ("profile: balancd", 'nearest: "balanced"'),
        ("profile: [balanced]", "1: profile: expected"),
        ("chunking:\n  tokens: many", "2: chunking.tokens: expected a whole number"),
        ("chunking: {tokens: true}", "1: chunking.tokens: expected a whole number"),
        ("chunking: {respect_headings: 1}", "1: chunking.respect_headings: expected true or false, got 1"),
        ("chunking: {tokens: 100, overlap: 100}", "1: chunking.overlap: expected at most half of chunking.tokens (100)"),
        (
            "chunking: {by_media_type: {text/csv: {chunker: tabel}}}",
            '1: chunking.by_media_type.text/csv.chunker: expected "prose", "code", "table" or "notebook", got "tabel", '
            'nearest: "table"',
        ),
        ("chunking: {by_media_type: {csv: {}}}", "1: chunking.by_media_type: expected media types like text/csv or text/*"),
        (
            "chunking: {by_media_type: {text/csv: {token: 64}}}",
            'token: unknown key, nearest: "tokens". Known keys: chunker,',
        ),
        ("chunking: {by_media_type: {text/csv: {tokens: 8}}}", "text/csv.tokens: expected at least 32"),
        (
            "chunking: {by_media_type: {text/csv: {tokens: 40, overlap: 30}}}",
            "text/csv: expected an overlap of at most half",
        ),
        (
            "chunking: {overlap: 40, by_media_type: {text/csv: {tokens: 64}}}",
            "text/csv: expected an overlap of at most half",
        ),
        ("chunking: 5", "1: chunking: expected a mapping of keys to values, got 5"),
        ("model: {name: no}", "1: model.name: expected text, got false: put it in quotes"),
        ("model: {sha256: abc}", "1: model.sha256: expected: hash of the weights"),
        ("sensors: {interval_seconds: 1}", "1: sensors.interval_seconds: expected at least 5, got 1"),
        ("history: {keep_runs: 0}", "1: history.keep_runs: expected at least 1, got 0"),
        ("history: {keep_materializations: 0}", "1: history.keep_materializations: expected at least 1, got 0"),
        ("freshness: {hours: 0}", "1: freshness.hours: expected at least 1, got 0"),
        ("owners: [search]", '1: owners: expected team:NAME or an e-mail address, not "search"'),
        ("owners: [ada@example]", '1: owners: expected team:NAME or an e-mail address, not "ada@example"'),
        ("pools: {gpu: 0}", "1: pools.gpu: expected at least 1, got 0"),
        ("pools: {'a b': 1}", "1: pools: expected pool names without spaces"),
        ("storage: {url: 's3://b/x'}", "1: storage.url: expected s3://BUCKET"),
        ("storage: {url: 's3://bucket//x'}", "1: storage.url: expected s3://BUCKET"),
        ("storage: {url: 's3://bucket/x/../y'}", "1: storage.url: expected s3://BUCKET"),
        ("storage: {url: 's3://key:secret@bucket/x'}", "1: storage.url: expected s3://BUCKET"),
        ("storage: {region: eu-west-1}", "1: storage: region is for s3:// only, and url is a folder"),
        ("storage: {url: 's3://bucket', access_key: {env: A}}", "1: storage: expected access_key and secret_key together"),
        ("storage: {url: 's3://bucket', endpoint_url: 'ftp://x'}", "1: storage.endpoint_url: expected an address like"),
        ("storage: {url: 's3://bucket', endpoint_url: 'http://a:b@x'}", "1: storage.endpoint_url: expected an address like"),
        (
            "storage: {url: 's3://bucket', access_key: AKIA123, secret_key: {env: B}}",
            "1: storage.access_key: expected {env: NAME}: a secret never stands in the file itself",
        ),
        ("storage: {url: 'gs://b/x'}", "not available in this version"),
        ("storage: {url: 'AZ://b/x'}", "not available in this version"),
        ("storage: {url: 'http://x'}", "1: storage.url: expected a folder"),
        ("schedule: {cron: '0 3 * *'}", "1: schedule.cron: expected five fields"),
        ("schedule: {timezone: Mars/Base}", "1: schedule.timezone: expected an IANA time zone"),
        ("schedule: {timezone: ../../etc/passwd}", "1: schedule.timezone: expected an IANA time zone"),
        ("limits: {parse_seconds: .inf}", "1: limits.parse_seconds: expected a finite number"),
        ("sources: {a: b}", "1: sources: expected a list of connections"),
        ("sources: [a]", "1: sources[0]: expected a mapping"),
        ("sources: [{name: a}]", "1: sources[0].type: missing; expected one of local_directory, local_zip, upload"),
        ("sources: [{type: upload}]", "1: sources[0].name: missing"),
        ("sources: [{name: a, type: local_dir}]", 'unknown source type "local_dir", nearest: "local_directory"'),
        ("sources: [{name: a, type: zzz}]", "Known types: local_directory, local_zip, upload"),
        ("sources: [{name: a, type: 5}]", "1: sources[0].type: expected one of"),
        ("sources: [{name: A b, type: upload}]", "1: sources[0].name: expected lower-case letters"),
        ("sources: [{name: inbox, type: local_zip, path: x}]", 'sources[0].name: the name "inbox" belongs'),
        ("sources: [{name: a, type: upload, shards: 1000}]", "sources[0].shards: expected less than or equal to 999"),
        (
            "sources:\n- name: a\n  type: local_directory\n  path: x\n  includ: ['**']",
            '5: sources[0].includ: unknown key, nearest: "include"',
        ),
        (
            "sources:\n- {name: a, type: local_directory, path: x, include: '*.md'}",
            "sources[0].include: expected a list",
        ),
        (
            "sources:\n- {name: a, type: local_directory, path: x, include: [/x]}",
            "sources[0].include: expected a pattern",
        ),
        (
            "sources:\n- {name: a, type: local_directory, path: x, include: [1]}",
            "2: sources[0].include[0]: expected text",
        ),
        ("sources:\n- {name: a, type: local_directory}", "2: sources[0].path: missing; expected: folder to list"),
        (
            "sources:\n- {name: a, type: upload}\n- {name: a, type: upload}",
            '3: sources[1].name: the name "a" is taken by the connection on line 2',
        ),
        ("model: {<<: {name: x}}", "merge keys"),
        ("model: {name: !!python/name:os.system x}", "no YAML tags"),
        ("model: {name: !secret x}", "no YAML tags"),
        ("pools: &a {gpu: *a}", "1: pools.gpu: expected plain nesting"),
        ("? [a, b]\n: c", "1: expected a plain word as a key"),
        ('model: {name: "\\ud800"}', "1: model.name: expected valid Unicode text"),
    ],
)
def test_one_problem(file: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(problems(file, text))


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"model:\n  name: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"kb\.yaml:2: expected a text file in UTF-8"):
        load(file)
    file.write_bytes(b"\xef\xbb\xbfprofile: balanced\r\n")
    assert load(file).profile == "balanced"


def test_all_problems_are_reported_at_once_in_order_of_lines(file: Path) -> None:
    text = "profil: x\nsources:\n- {name: a, type: uplod}\n- {name: B, type: local_zip}\nmodel: {device: gpu}\nmodel: {}\n"
    found = problems(file, text)
    assert [line.split(":")[0] for line in found] == ["1", "3", "4", "4", "5", "6"]
    assert found[1].startswith("3: sources[0].type")


def test_aliases_are_values_but_not_bombs(file: Path) -> None:
    text = "sources:\n- {name: a, type: local_directory, path: x, exclude: &e ['**/x/**']}\n"
    text += "- {name: b, type: local_directory, path: y, exclude: *e}\n"
    assert [getattr(s, "exclude", None) for s in given_text(file, text).sources] == [("**/x/**",)] * 2 + [None]
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    assert len(problems(file, bomb)) < 100


def test_a_storage_in_a_bucket(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = given_text(file, "storage: {url: 's3://my-bucket'}")
    assert plain.s3 == S3Location("my-bucket")
    assert plain.local_root == plain.context.storage == file.parent / ".kb"
    text = "storage: {url: 's3://b.1/kb/one/', endpoint_url: 'http://127.0.0.1:9000/', region: r, "
    full = given_text(file, text + "access_key: {env: AK}, secret_key: {env: SK}}")
    with pytest.raises(ConfigError, match="the environment variable AK is not set"):
        _ = full.s3
    monkeypatch.setenv("AK", "an id")
    monkeypatch.setenv("SK", "a secret")
    assert full.s3 == S3Location("b.1", "kb/one", "http://127.0.0.1:9000", "r", "an id", "a secret")
    assert "a secret" not in repr(full)
    assert given_text(file, "storage: {url: ./data}").s3 is None


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["storage", "url", "sources", "name", "type", "path", "model", "pools", "limits", "x"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=15,
    )
)
def test_whatever_the_file_holds_it_loads_or_says_why(file: Path, data: Any) -> None:
    file.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    _loads_or_says_why(file)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("a:- \n\t{}[],&*!|>'\"#%@<0\0"), max_size=25))
def test_any_text_loads_or_says_why(file: Path, text: str) -> None:
    file.write_bytes(text.encode())
    _loads_or_says_why(file)


def _loads_or_says_why(file: Path) -> None:
    try:
        said = load(file).path.name
    except ConfigError as error:
        said = str(error)
    assert said


class WikiConfig(SourceConfig):
    token: SecretEnv
    address: str | None = None


def _install(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModuleType("foreign_wiki")
    made.__dict__["Wiki"] = type("Wiki", (Upload,), {"Config": WikiConfig})
    monkeypatch.setitem(sys.modules, "foreign_wiki", made)
    entry = EntryPoint("wiki", "foreign_wiki:Wiki", GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: (entry,))


def test_a_secret_is_resolved_late_and_never_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch)
    monkeypatch.delenv("WIKI_TOKEN", raising=False)
    settings = given_text(file, "sources: [{name: w, type: wiki, token: {env: WIKI_TOKEN}}]")
    config = settings.source("w")
    assert isinstance(config, WikiConfig)
    with pytest.raises(ConfigError, match='WIKI_TOKEN of the connection "w"'):
        config.token.resolve()
    monkeypatch.setenv("WIKI_TOKEN", "hunter2")
    assert config.token.resolve() == "hunter2"
    for shown in (repr(settings), str(config), settings.model_dump_json(), repr(pickle.dumps(config))):
        assert "hunter2" not in shown
    assert "WIKI_TOKEN" in settings.model_dump_json()


@pytest.mark.parametrize(
    ("written", "location"),
    [
        ("null", None),
        ("sqlite:///state/l.sqlite", "BASE/state/l.sqlite"),
        ("sqlite:////srv/kb.sqlite", "/srv/kb.sqlite"),
        ("postgresql://kb@h:5432/kb?sslmode=require", "postgresql://kb:p%40%2Fss@h:5432/kb?sslmode=require"),
        ("postgresql+psycopg2://kb@/kb?host=/run/pg", "postgresql+psycopg2://kb:p%40%2Fss@/kb?host=/run/pg"),
    ],
)
def test_the_ledger_lies_where_the_url_says(
    file: Path, monkeypatch: pytest.MonkeyPatch, written: str, location: str | None
) -> None:
    monkeypatch.setenv("LEDGER_PASSWORD", "p@/ss")
    password = ", password: {env: LEDGER_PASSWORD}" if written.startswith("postgresql") else ""
    settings = given_text(file, f"ledger: {{url: '{written}'{password}}}" if written != "null" else "ledger: {url: null}")
    found = settings.ledger_location()
    assert found == location or str(found) == str(location).replace("BASE", str(file.parent))
    assert isinstance(found, str) == bool(password)
    assert "p@/ss" not in repr(settings)
    monkeypatch.delenv("LEDGER_PASSWORD")
    if password:
        with pytest.raises(ConfigError, match="LEDGER_PASSWORD is not set"):
            settings.ledger_location()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("url: 'mysql://h/kb'", "ledger.url: expected sqlite:///PATH or postgresql://USER@HOST/NAME"),
        ("url: ./ledger.sqlite", "ledger.url: expected sqlite:///PATH or postgresql://USER@HOST/NAME"),
        ("url: 'postgresql://h'", "ledger.url: expected sqlite:///PATH or postgresql://USER@HOST/NAME"),
        ("url: 'postgresql://h:port/kb'", "ledger.url: expected sqlite:///PATH or postgresql://USER@HOST/NAME"),
        ("url: 'sqlite://ledger.sqlite'", "ledger.url: expected sqlite:///PATH with three slashes"),
        ("url: 'postgresql://kb:hunter2@h/kb'", "ledger.url: a password never stands in the file itself"),
        ("url: 'postgresql://h/kb?user=kb&password=hunter2'", "ledger.url: a password never stands in the file itself"),
        ("password: {env: A}", "ledger.password: belongs to a url like postgresql://USER@HOST/NAME"),
        ("url: 'sqlite:///a', password: {env: A}", "ledger.password: belongs to a url like postgresql://USER@HOST/NAME"),
        (
            "url: 'postgresql://h/kb', password: {env: A}",
            "ledger.password: belongs to a url like postgresql://USER@HOST/NAME",
        ),
        ("url: 'postgresql://kb@h/kb', password: hunter2", "ledger.password: expected {env: NAME}"),
        ("url: 'postgresql://kb@h/kb', passwort: {env: A}", 'ledger.passwort: unknown key, nearest: "password"'),
    ],
)
def test_a_bad_ledger_is_told_with_its_line_and_key(file: Path, written: str, expected: str) -> None:
    told = problem(file, f"# a comment\nledger: {{{written}}}")
    assert told.startswith(f"2: {expected}")
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "written",
    [
        "hunter2",
        "'*hunter2'",
        "[hunter2]",
        "{env: 'hunter2 x'}",
        "{env: [hunter2]}",
        "{value: hunter2}",
        "{env: A, value: hunter2}",
        "*hunter2",
        "!hunter2 x",
        "hunter2, password: hunter2",
        "{env: A}, address: [hunter2]",
    ],
)
def test_a_literal_secret_is_refused_and_not_repeated(file: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    _install(monkeypatch)
    with pytest.raises(ConfigError) as caught:
        given_text(file, f"sources: [{{name: w, type: wiki, token: {written}}}]")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_a_third_partys_settings_get_the_same_errors(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch)
    text = "sources:\n- name: w\n  type: wiki\n  tokn: {env: A}\n"
    assert problems(file, text) == [
        "2: sources[0].token: missing; expected: a value",
        '4: sources[0].tokn: unknown key, nearest: "token". Known keys: address, name, shards, token, type',
    ]
    assert "1: sources[0].token.en: unknown key" in "\n".join(
        problems(file, "sources: [{name: w, type: wiki, token: {en: A}}]")
    )


def test_a_connector_that_cannot_be_imported_is_a_problem_on_its_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("wiki", "no_such_module:Wiki", GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: (entry,))
    assert "can't be imported" in problem(file, "sources:\n- {name: w, type: wiki}")


def test_settings_are_frozen_and_errors_survive_pickling(file: Path) -> None:
    settings = given_text(file, template())
    with pytest.raises(ValueError, match="frozen"):
        settings.profile = "balanced"
    with pytest.raises(ConfigError) as caught:
        given_text(file, "profil: x")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
