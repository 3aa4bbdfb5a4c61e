"""The connector of examples/kb-source-git: installed like any package, then used by the real ``kb``; and its page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kb_pipeline.settings.load import load
from kb_pipeline.sources.base import Item, ItemUnreadable, ItemVanished, ListingFailed, Source, SourceError
from kb_pipeline.sources.registry import GROUP, build, source_types
from kb_pipeline_tests.acceptance.project import Project, directory, sentences

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kb-source-git"
CODE = EXAMPLE / "kb_source_git.py"
PAGE = (ROOT / "docs" / "connectors.md").read_text(encoding="utf-8")
IDENTITY = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
HERMETIC = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


class Repository:
    """A git repository made with the git command."""

    def __init__(self, root: Path, *, bare: bool = False) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main", *(["--bare"] if bare else []))

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        command = ["git", *IDENTITY, "-C", str(self.root), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | HERMETIC
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def commit(self, content: dict[str, str]) -> None:
        """Make these files the content of the work tree, and commit all of it."""
        for name, text in content.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=change")

    def tree(self, content: dict[bytes, bytes], *others: bytes) -> str:
        """The id of a tree with these files, and with other entries as ``git update-index --index-info`` takes them."""
        entries = list(others)
        for path, data in content.items():
            blob = self.git("hash-object", "-w", "--stdin", stdin=data)
            entries.append(f"100644 {blob}\t".encode() + path)
        self.git("read-tree", "--empty")
        self.git("update-index", "-z", "--index-info", stdin=b"".join(entry + b"\0" for entry in entries))
        return self.git("write-tree", "--missing-ok")

    def object(self, name: str) -> Path:
        """The file of a loose object."""
        return Path(self.git("rev-parse", "--absolute-git-dir")) / "objects" / name[:2] / name[2:]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip has installed the example into, without a network."""
    folder = tmp_path_factory.mktemp("connector")
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(EXAMPLE, folder / "checkout", ignore=ignored)  # pip builds in place
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(folder / "checkout")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def here(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connector is known to this process."""
    monkeypatch.syspath_prepend(installed)
    monkeypatch.delitem(sys.modules, "kb_source_git", raising=False)
    for name, value in HERMETIC.items():
        monkeypatch.setenv(name, value)


def connect(folder: Path, **keys: Any) -> Source:
    """The source of the one connection of a kb.yaml in this folder."""
    Project(folder).configure({"name": "code", "type": "git", **keys})
    settings = load(folder / "kb.yaml")
    return build(settings.source("code"), settings.context)


def read(source: Source, item: Item) -> bytes:
    with source.read(item) as stream:
        return stream.read()


# Installed, and used by kb


def test_a_repository_is_ingested_and_followed(installed: Path, tmp_path: Path) -> None:
    trace = tmp_path / "git.trace"
    project = Project(tmp_path / "kb", environment={"PYTHONPATH": str(installed), "GIT_TRACE": str(trace), **HERMETIC})
    repository = Repository(tmp_path / "repository")
    repository.commit(sentences(["pensions", "gardens", "volcanoes", "rivers"]))
    (repository.root / "linked.md").symlink_to("gardens.md")
    repository.commit({})
    code = {"name": "code", "type": "git", "repository": "../repository", "ref": "main"}
    project.configure(code, directory("notes", "notes"))
    project.write("notes/tides.md", "# Tides\n\nA note about tides.\n")

    def reads() -> int:
        """How many blobs git was asked for since the last time."""
        found = trace.read_text(encoding="utf-8").count("built-in: git cat-file")
        trace.write_text("", encoding="utf-8")
        return found

    def paths() -> set[str]:
        """Paths in the repository that the release has text of."""
        return {uri.rpartition(":")[2] for uri in project.uris() if uri.startswith(repository.root.as_uri())}

    looks = project.side_by_side({"list": ["sources", "--json"], "check": ["sources", "check", "--json"]})
    assert {"name": "code", "type": "git", "partitions": ["code"]} in looks["list"].json
    assert looks["check"].code == 0
    checked = {row["name"]: row for row in looks["check"].json}
    assert checked["code"]["detail"] == f"{repository.root}: readable, entries in main: 5"

    trace.write_text("", encoding="utf-8")
    counts = project.run()["sources"]["code"]
    assert (counts["listed"], counts["indexed"], counts["excluded"], counts["embedded"]) == (5, 4, 1, 4)
    assert reads() == 4
    assert paths() == {"pensions.md", "gardens.md", "volcanoes.md", "rivers.md"}

    # A commit that edits one file, renames one and deletes one: only the edited text is embedded.
    repository.git("mv", "gardens.md", "parks.md")
    repository.git("rm", "--quiet", "volcanoes.md")
    repository.commit({"rivers.md": "# Rivers\n\nA delta is where they end.\n"})
    counts = project.run()["sources"]["code"]
    assert (counts["listed"], counts["indexed"], counts["unchanged"], counts["deleted"]) == (4, 2, 1, 2)
    assert (counts["embedded"], reads()) == (1, 2)
    assert paths() == {"pensions.md", "parks.md", "rivers.md"}

    # A branch that doesn't exist: said in a sentence, nothing is deleted, and the others are worked on.
    project.configure({**code, "ref": "mian"}, directory("notes", "notes"))
    project.write("notes/winds.md", "# Winds\n\nA note about winds.\n")
    report = project.run(exits=1)
    (error,) = report["errors"]
    assert (error["source"], error["class"]) == ("code", "source")
    assert error["message"].endswith(f"{repository.root} can't be read at mian: fatal: Not a valid object name mian")
    assert report["sources"]["notes"]["indexed"] == 1
    assert paths() == {"pensions.md", "parks.md", "rivers.md"}
    looks = project.side_by_side(
        {"check": ["sources", "check", "--json"], "search": ["search", "delta", "--mode", "text", "--json"]}
    )
    assert looks["check"].code == 1
    assert {row["name"]: row["ok"] for row in looks["check"].json} == {"code": False, "notes": True, "inbox": True}
    assert "A delta is where they end." in looks["search"].stdout


def test_a_type_that_is_not_installed_is_named_with_those_that_are(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.configure({"name": "code", "type": "git", "repository": "."})
    said = project.kb("sources", exits=2).stderr
    assert '"git"' in said
    assert all(name in said for name in ("local_directory", "local_zip", "upload"))


# The contract, as kb_pipeline_tests/sources/test_contract.py has it for the built-in types


def test_it_is_found_by_its_entry_point(here: None) -> None:
    entry = source_types()["git"]
    assert (entry.group, entry.dist and entry.dist.name) == (GROUP, "kb-source-git")


@pytest.mark.parametrize("bare", [False, True])
def test_names_of_every_kind_are_listed_in_order_and_read(here: None, tmp_path: Path, bare: bool) -> None:
    repository = Repository(tmp_path / "repository", bare=bare)
    names = ["a-b.txt", "a.txt", "a/b.md", "z\n\t 100%#?.txt", "ü.txt", "\U0001f600.md", "-x", '"quoted".md']
    content = {name.encode(): name.encode() * 1000 for name in names} | {b"empty": b"", b"\x80\xff.txt": b"no name"}
    link = b"120000 " + repository.git("hash-object", "-w", "--stdin", stdin=b"a.txt").encode() + b"\tlinked.md"
    submodule = b"160000 " + b"1" * 40 + b"\tsubmodule"
    source = connect(tmp_path, repository="repository", ref=repository.tree(content, link, submodule))

    assert isinstance(source, Source)
    items = list(source.list())
    assert items == list(source.list())
    assert [item.key for item in items] == sorted({item.key for item in items})
    taken = {item.key: item for item in items if item.excluded is None}
    assert {key: read(source, item) for key, item in taken.items()} == {
        **{name: name.encode() * 1000 for name in names}, "empty": b"", r"\udc80\udcff.txt": b"no name",
    }  # fmt: skip
    assert all(item.size == len(read(source, item)) for item in taken.values())
    assert {item.key: item.excluded for item in items if item.excluded} == {"linked.md": "link", "submodule": "special"}
    assert taken["a/b.md"].name == "b.md"
    assert all(item.uri.isascii() for item in items)


def test_a_change_gives_another_version_and_leaves_the_others(here: None, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    source = connect(tmp_path, repository="repository")
    repository.commit({"a": "one", "b": "two"})
    before = {item.key: item for item in source.list()}
    repository.commit({"a": "six"})
    after = {item.key: item for item in source.list()}
    assert before["a"].version != after["a"].version
    assert before["b"] == after["b"]
    assert read(source, before["a"]) == b"one"  # what was listed is what is read, whatever was committed since


def test_a_folder_of_a_branch(here: None, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    repository.commit({"docs/a b.md": "a", "code.py": "b"})
    (item,) = connect(tmp_path, repository="repository", ref="main:docs").list()
    assert (item.key, item.uri) == ("a b.md", f"{repository.root.as_uri()}#main%3Adocs/a%20b.md")
    with pytest.raises(ListingFailed, match="main:nothing"):
        list(connect(tmp_path, repository="repository", ref="main:nothing").list())


@pytest.mark.parametrize("repository", ["missing", "outer/inner", "plain", "bad\0name"])
def test_no_repository_is_no_listing(here: None, tmp_path: Path, repository: str) -> None:
    Repository(tmp_path / "outer").commit({"a": "one"})
    (tmp_path / "outer" / "inner").mkdir()
    (tmp_path / "plain").mkdir()
    source = connect(tmp_path, repository=repository)
    with pytest.raises(ListingFailed, match=r"can't be read at HEAD: "):
        list(source.list())
    with pytest.raises(SourceError):
        source.probe()
    with pytest.raises(ItemUnreadable):
        read(source, Item("a", "1" * 40, "a", "file:///a"))


def test_no_commit_no_such_ref_and_a_blob_are_no_listing(here: None, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    with pytest.raises(ListingFailed, match="Not a valid object name HEAD"):
        list(connect(tmp_path, repository="repository").list())
    repository.commit({"a": "one"})
    for ref in ("nothing", "HEAD~5", "main:a"):
        with pytest.raises(ListingFailed, match=f"can't be read at {ref}"):
            list(connect(tmp_path, repository="repository", ref=ref).list())


def test_without_the_git_command_there_is_no_listing(here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Repository(tmp_path / "repository").commit({"a": "one"})
    source = connect(tmp_path, repository="repository")
    (item,) = source.list()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ListingFailed, match="No such file or directory: 'git'"):
        list(source.list())
    with pytest.raises(ItemUnreadable):
        read(source, item)


def test_a_ref_is_never_an_option(here: None, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="ref"):
        connect(tmp_path, repository="repository", ref="--help")


@pytest.mark.parametrize("damaged", [False, True])
def test_a_blob_that_is_gone_or_damaged_leaves_the_others_readable(here: None, tmp_path: Path, damaged: bool) -> None:
    repository = Repository(tmp_path / "repository")
    repository.commit({"a": "one", "b": "two"})
    source = connect(tmp_path, repository="repository")
    a, b = source.list()
    blob = repository.object(a.version)
    blob.unlink()
    if damaged:
        blob.write_bytes(b"junk")
    with pytest.raises(ItemVanished, match="no longer has"):
        read(source, a)
    assert read(source, b) == b"two"


def test_a_replaced_object_keeps_its_bytes(here: None, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    repository.commit({"a": "one", "b": "two"})
    source = connect(tmp_path, repository="repository")
    a, b = source.list()
    repository.git("replace", a.version, b.version)
    assert read(source, next(iter(source.list()))) == b"one"


def test_it_reads_its_own_repository_inside_a_hook_of_another(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository(tmp_path / "repository").commit({"a": "one"})
    other = Repository(tmp_path / "other")
    other.commit({"b": "two"})
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    assert [item.key for item in connect(tmp_path, repository="repository").list()] == ["a"]


def test_probe_changes_nothing(here: None, tmp_path: Path) -> None:
    Repository(tmp_path / "repository").commit({"a": "one", "d/b": "two", "d/c": "three"})
    source = connect(tmp_path, repository="repository")
    before = sorted(tmp_path.rglob("*"))
    assert source.probe() == f"{tmp_path / 'repository'}: readable, entries in HEAD: 2"
    assert sorted(tmp_path.rglob("*")) == before


# The file and its page


def test_it_is_short_and_clean(tmp_path: Path) -> None:
    assert len(CODE.read_text(encoding="utf-8").splitlines()) <= 60
    use = tmp_path / "use.py"
    use.write_text(
        "from kb_source_git import Git, GitConfig\nfrom kb_pipeline.sources.base import Source, SourceContext\n"
        "def source(config: GitConfig, context: SourceContext) -> Source:\n    return Git(config, context)\n",
        encoding="utf-8",
    )
    checks = [["ruff", "check", EXAMPLE], ["ruff", "format", "--check", EXAMPLE], ["mypy", "--strict", CODE, use]]
    for check in checks:
        environment = {**os.environ, "MYPYPATH": str(EXAMPLE)}
        command = [sys.executable, "-m", *map(str, check)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_page_quotes_the_files() -> None:
    code = CODE.read_text(encoding="utf-8")
    secret, together, whole, *parts = blocks(PAGE, "python")
    assert whole == code
    assert len(parts) == 5
    assert all(part in code for part in parts)
    assert blocks(PAGE, "toml") == [(EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")]

    names: dict[str, Any] = {}
    exec(compile(secret, "connectors.md", "exec", dont_inherit=True), names)
    config = names["WikiConfig"](name="wiki", type="wiki", token={"env": "WIKI_TOKEN"})
    assert config.token.env == "WIKI_TOKEN"

    exec(compile(together, "connectors.md", "exec", dont_inherit=True), names)
    items = [Item("a", "1", "a.md", "x:a"), Item("b", "1", "b.md", "x:b")]
    answers = [SimpleNamespace(status=200, body=b"words"), SimpleNamespace(status=404, body=b"")]
    source = SimpleNamespace(_batch_request=lambda asked: zip(asked, answers, strict=True))
    (one, data), (other, error) = names["read_many"](source, items)
    assert (one, data, other) == (items[0], b"words", items[1])
    assert isinstance(error, ItemVanished)


@pytest.mark.parametrize("page", [PAGE, (EXAMPLE / "README.md").read_text(encoding="utf-8")], ids=["page", "readme"])
def test_the_quoted_settings_load(here: None, tmp_path: Path, page: str) -> None:
    (text,) = blocks(page, "yml")
    (tmp_path / "kb.yaml").write_text(text, encoding="utf-8")
    settings = load(tmp_path / "kb.yaml")
    assert [config.type for config in settings.sources if config.name != "inbox"] == ["git"]
    for config in settings.sources:
        build(config, settings.context)
