"""Input that nobody wants: every bad item is set aside by name, the rest is indexed, and no traceback is shown."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from kb_pipeline_tests.acceptance.project import (
    Project,
    archive,
    conserved,
    directory,
    equal_releases,
    install_connectors,
    sentences,
)

_GOOD = sentences(["pensions", "gardens"])
_LONG_NAME = "l" * 252 + ".md"
_ODD_NAMES = ["line\nbreak.md", "rocket 🚀.md", 'it\'s "quoted" & `ticked`.md', "100%.md", "-rf.md", _LONG_NAME]


def _zip(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    return packed.getvalue()


def _mail(subject: str, attached: dict[str, bytes]) -> bytes:
    made = EmailMessage()
    made["From"], made["Subject"] = "harbour@example.org", subject
    made.set_content("See the files.")
    for name, content in attached.items():
        made.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return made.as_bytes()


def _encrypted(data: bytes, member: str) -> bytes:
    """An archive whose member claims to be encrypted: the flag is set in both of its headers."""
    raw = bytearray(data)
    for signature, flags_at, name_at, length_at in ((b"PK\x03\x04", 6, 30, 26), (b"PK\x01\x02", 8, 46, 28)):
        at = raw.find(signature)
        while at >= 0:
            (length,) = struct.unpack_from("<H", raw, at + length_at)
            if raw[at + name_at : at + name_at + length] == member.encode():
                raw[at + flags_at] |= 0x1
            at = raw.find(signature, at + 4)
    return bytes(raw)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One run over everything bad at once, beside something good in each connection."""
    base = tmp_path_factory.mktemp("zoo")
    project = Project(base / "project", environment=install_connectors(base / "site"))
    project.configure(
        directory("files", "files", follow_links=True),
        archive("zips", "zips/*.zip"),
        {"name": "moody", "type": "journalled", "path": "moody", "journal": "journal"},
    )
    for name, text in _GOOD.items():
        for folder in ("files", "moody"):
            project.write(f"{folder}/{name}", text)
    for number, name in enumerate(_ODD_NAMES):
        project.write(f"files/{name}", f"# Odd name {number}\n\nThis file has the odd name number {number}.\n")
    (project.root / "files").joinpath(os.fsdecode(b"latin-\xe9.md")).write_text("# Latin\n\nA name in Latin-1.\n")
    project.write("files/empty.md", b"")
    project.write("files/blank.txt", b" \n\t\n ")
    project.write("files/latin1.txt", "Ein Café für müde Bären und ältere Gäste, täglich geöffnet.\n".encode("latin-1"))
    project.write("files/utf16.txt", "Written on another system.\n".encode("utf-16"))
    project.write("files/broken.json", b'{"a": [1, 2')
    project.write("files/deep.json", b"[" * 100_000)
    project.write("files/broken.ipynb", b'{"cells": [{"cell_type": 3}')
    project.write("files/broken.pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nnothing more")
    project.write("files/huge.txt", b"")
    os.truncate(project.root / "files/huge.txt", 2 << 30)
    bundle = _zip({"minutes.md": b"# Minutes\n\nThe lighthouse keeper asked for paraffin.\n"})
    attached = {"terms.txt": b"The mooring fee is nine florins.", "bad.pdf": b"%PDF-1.7 no more", "bundle.zip": bundle}
    project.write("files/post.eml", _mail("Harbour post", attached))
    os.mkfifo(project.root / "files/pipe.md")
    (project.root / "files/loop").symlink_to(project.root / "files", target_is_directory=True)
    (project.root / "files/dangling.md").symlink_to("nowhere.md")

    good = {name: text.encode() for name, text in _GOOD.items()}
    project.write("zips/good.zip", _zip(good))
    project.write("zips/not-a-zip.zip", b"this is no archive at all")
    project.write("zips/empty-file.zip", b"")
    project.write("zips/cut.zip", _zip(good)[:-30])
    hostile = {"../../escaped.md": b"# Escaped\n", "/absolute.md": b"# Absolute\n", "fine.md": b"# Fine\n\nQuite fine.\n"}
    project.write("zips/hostile.zip", _zip(hostile))
    secret = {"secret.md": b"# Secret\n\nNobody may read this.\n", "open.md": b"# Open\n\nEverybody may read this.\n"}
    project.write("zips/locked.zip", _encrypted(_zip(secret), "secret.md"))
    project.write("zips/bomb.zip", _zip({"bomb.txt": b"\0" * (64 << 20)}))

    project.write("moody/vanishing.md", "# Vanishing\n")
    project.write("moody/unreadable.md", "# Unreadable\n")
    result = project.kb("run", "--json", exits=None)
    quarantine = {
        connection: {item["key"]: item["status"] for item in project.kb("quarantine", "list", "--json").json
                     if item["connection"] == connection}
        for connection in ("files", "zips", "moody")
    }  # fmt: skip
    return SimpleNamespace(project=project, result=result, quarantine=quarantine, uris=project.uris())


def test_the_run_completes_with_issues_and_exits_0(zoo: SimpleNamespace) -> None:
    assert zoo.result.code == 0, zoo.result.stderr
    report = zoo.result.report
    assert report["status"] == "completed_with_issues"
    assert report["errors"] == []
    for name, items in zoo.quarantine.items():
        assert report["sources"][name]["quarantined"] == len(items)


def test_bad_files_are_set_aside_by_name(zoo: SimpleNamespace) -> None:
    expected = {
        "broken.pdf": "corrupt",
        "broken.ipynb": "corrupt",
        "broken.json": "corrupt",
        "deep.json": "corrupt",
        "huge.txt": "too_large",
        "post.eml!/bad.pdf": "corrupt",
    }
    found = zoo.quarantine["files"]
    assert {key: found.get(key) for key in expected} == expected
    assert set(found) <= {*expected, "pipe.md", "dangling.md"}


def test_bad_archives_and_members_are_set_aside_by_name(zoo: SimpleNamespace) -> None:
    found = zoo.quarantine["zips"]
    for name in ("not-a-zip.zip", "empty-file.zip", "cut.zip"):
        assert found.get(name) == "corrupt", found
    assert found.get("locked.zip!/secret.md") == "encrypted"
    assert "bomb.zip!/bomb.txt" in found


def test_members_never_escape(zoo: SimpleNamespace) -> None:
    outside = [path for path in zoo.project.root.parent.rglob("*") if path.name in ("escaped.md", "absolute.md")]
    assert outside == []
    assert not Path("/absolute.md").exists()
    assert zoo.project.kb("search", "fine", "--mode", "text", "--connection", "zips", "--json").json["hits"]


def test_items_that_vanish_or_cannot_be_read_are_set_aside(zoo: SimpleNamespace) -> None:
    assert zoo.quarantine["moody"] == {"vanishing.md": "vanished", "unreadable.md": "unreadable"}
    assert zoo.result.report["sources"]["moody"]["indexed"] == 2


def test_files_of_messages_are_searchable_at_addresses_of_their_own(zoo: SimpleNamespace) -> None:
    message = (zoo.project.root / "files/post.eml").as_uri()
    for query, uri in (("nine florins", "!/terms.txt"), ("paraffin", "!/bundle.zip!/minutes.md")):
        hits = zoo.project.kb("search", query, "--mode", "text", "--json").json["hits"]
        assert [hit["uri"] for hit in hits] == [message + uri]
    (shown,) = zoo.project.kb("quarantine", "show", "post.eml!/bad.pdf", "--json").json
    assert shown["uri"] == f"{message}!/bad.pdf"


def test_everything_good_is_searchable(zoo: SimpleNamespace) -> None:
    root = zoo.project.root
    expected = [(root / "files" / name).as_uri() for name in [*_GOOD, *_ODD_NAMES, "latin1.txt", "utf16.txt"]]
    expected += [(root / "moody" / name).as_uri() for name in _GOOD]
    assert set(expected) <= zoo.uris
    in_zips = {uri for uri in zoo.uris if uri.startswith("zip://")}
    assert {uri.rpartition("/")[2] for uri in in_zips} >= {*_GOOD, "fine.md", "open.md"}


def test_files_of_other_encodings_are_read_right(zoo: SimpleNamespace) -> None:
    texts = zoo.project.rows()["text"].to_pylist()
    assert any("Café für müde Bären" in text for text in texts)
    assert any("Written on another system" in text for text in texts)


def test_an_unchanged_rerun_reads_only_what_was_unreadable(zoo: SimpleNamespace) -> None:
    """What is bad stays in quarantine without being parsed again; only transient trouble is tried again."""
    journal = zoo.project.root / "journal"
    before = journal.read_text().splitlines()
    report = zoo.project.run("--sources", "moody,files")
    assert journal.read_text().splitlines()[len(before) :] == ["unreadable.md"]
    files = report["sources"]["files"]
    assert (files["indexed"], files["embedded"]) == (0, 0)
    assert files["quarantined"] == len(zoo.quarantine["files"])


# kb.yaml and the command line


_BAD_CONFIGS = {
    "not yaml": ("sources: [\n", r"kb\.yaml:\d+: "),
    "a list": ("- one\n", r"kb\.yaml:1: expected a mapping"),
    "an unknown key": ("storag: {url: .kb}\n", r'kb\.yaml:1: storag: unknown key, nearest: "storage"'),
    "an unknown type": (
        "sources:\n  - {name: a, type: local_dirctory, path: x}\n",
        r'kb\.yaml:2: sources\[0\]\.type: .*nearest: "local_directory"',
    ),
    "a name twice": (
        "sources:\n  - {name: a, type: local_zip, path: x}\n  - {name: a, type: local_zip, path: y}\n",
        r"kb\.yaml:3: sources\[1\]\.name: .*line 2",
    ),
    "a missing path": ("sources:\n  - {name: a, type: local_directory}\n", r"kb\.yaml:2: sources\[0\]\.path: missing"),
    "a storage of another cloud": ("storage: {url: gs://bucket/kb}\n", r"kb\.yaml:1: storage\.url: .*gs://"),
    "a key without its secret": (
        "storage: {url: s3://bucket/kb, access_key: {env: KEY}}\n",
        r"kb\.yaml:1: storage: expected access_key and secret_key together",
    ),
    "a later section": ("scope: []\n", r"kb\.yaml:1: scope: "),
    "an unknown profile": ("profile: turbo\n", r"kb\.yaml:1: profile: expected .*balanced"),
}


@pytest.mark.parametrize("what", _BAD_CONFIGS)
def test_a_bad_config_exits_2_with_file_line_and_key(tmp_path: Path, what: str) -> None:
    text, message = _BAD_CONFIGS[what]
    project = Project(tmp_path)
    project.write("kb.yaml", text)
    result = project.kb("status", "--json", exits=2)
    assert result.stdout == ""
    assert re.search(message, result.stderr), result.stderr
    assert not (tmp_path / ".kb").exists()


def test_without_a_config_every_command_says_how_to_get_one(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for command in (["run", "--json"], ["status"], ["search", "anything"], ["env"]):
        result = project.kb(*command, exits=2)
        assert "kb.yaml" in result.stderr
        assert "kb init" in result.stderr
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--profile", "turbo"], "high-throughput"),
        (["run", "--sources", "nowhere"], "known: docs, inbox"),
        (["run", "--sources", "local_zip:docs"], "of type local_directory, not local_zip"),
        (["run", "--sources", ","], "--sources"),
        (["run", "--max-concurrent-files", "0"], "--max-concurrent-files"),
        (["run", "--enable-audit"], "--enable-audit"),
        (["materialize", "local_directory/documents", "--partition", "dogs"], "known: docs"),
        (["materialize", "local_directory/documents"], "known: docs"),
        (["materialize", "local_directory/nothing", "--partition", "docs"], "local_directory/documents"),
        (["upload", "kb.yaml", "--connection", "docs"], "takes no uploads"),
        (["upload", "kb.yaml", "--connection", "dogs"], "known: docs, inbox"),
        (["search", "  "], "empty"),
        (["fly"], "fly"),
    ],
    ids=" ".join,
)
def test_bad_usage_exits_2_and_names_what_is_known(tmp_path: Path, arguments: list[str], message: str) -> None:
    project = Project(tmp_path)
    project.configure(directory("docs", "docs"))
    result = project.kb(*arguments, exits=2)
    assert message in result.stderr
    assert result.stdout == ""


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(disk: Path, leave: int) -> Path:
    """Fill a disk up to ``leave`` bytes."""
    filler = disk / "filler"
    status = os.statvfs(disk)
    with filler.open("wb") as handle:
        handle.write(b"\0" * max(0, status.f_bavail * status.f_frsize - leave))
    return filler


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(0, marks=pytest.mark.slow),
        pytest.param(50_000, marks=pytest.mark.slow),
        300_000,
        pytest.param(600_000, marks=pytest.mark.slow),
        pytest.param(900_000, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_ends_the_run_with_a_sentence_and_freeing_space_mends_it(
    tmp_path: Path, small_disk: Path, leave: int
) -> None:
    project = Project(tmp_path / "project")
    (project.root / ".kb").symlink_to(small_disk)
    project.configure(directory("docs", "docs"))
    for name, text in _GOOD.items():
        project.write(f"docs/{name}", text)
    project.run()
    before = project.rows()
    # Bytes that no compression makes smaller.
    new = project.write("docs/new.txt", "\n".join(os.urandom(60).hex() for _ in range(100)))
    filler = _fill(small_disk, leave)
    result = project.kb("run", "--json", exits=None)
    if result.code == 0:
        pytest.fail(f"{leave} bytes were enough: the disk was not full")
    assert result.code == 1
    assert re.search("space|full", result.stderr + result.stdout), result.stderr
    if result.stdout:
        assert all(conserved(counts) for counts in result.report["sources"].values())
    assert equal_releases(project.rows(), before), "the release that was there is gone"
    filler.unlink()
    assert project.run()["status"] == "completed"
    after = project.rows()
    old = pc.not_equal(after["uri"], pa.scalar(new.as_uri()))
    assert equal_releases(after.filter(old), before)
    assert after.num_rows > before.num_rows
    assert set(project.stored_vectors()) == set(after["text_sha256"].to_pylist())
    assert project.unfinished_runs() == []
