from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.sources.globs import Globs, normalise


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("**", "a", True),
        ("**", "a/b/c.txt", True),
        ("**/*.md", "a.md", True),
        ("**/*.md", "x/y/a.md", True),
        ("**/*.md", "x/y/a.mdx", False),
        ("*.md", "a.md", True),
        ("*.md", "x/a.md", False),
        ("docs/**", "docs/a", True),
        ("docs/**", "docs/x/a", True),
        ("docs/**", "docs", False),
        ("docs/**", "docsx/a", False),
        ("docs/", "docs/x/a", True),
        ("./docs/*.md", "docs/a.md", True),
        ("**/drafts/**", "drafts/a", True),
        ("**/drafts/**", "x/drafts/y/a", True),
        ("**/drafts/**", "x/mydrafts/a", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "axb", False),
        ("a**b", "axyb", True),
        ("a**b", "a/b", False),
        ("?.txt", "a.txt", True),
        ("?.txt", "/.txt", False),
        ("[ab].txt", "b.txt", True),
        ("[!ab].txt", "b.txt", False),
        ("[!ab]x", "/x", False),
        ("[a-c]1", "b1", True),
        ("[]]", "]", True),
        ("[*]", "*", True),
        ("[*]", "x", False),
        ("[a", "[a", True),
        ("[.-0]", "/", False),
        ("*", "a\nb", True),
        ("a.b", "axb", False),
        ("A.md", "a.md", False),
        ("ü*", "über", True),
    ],
)
def test_matches(pattern: str, path: str, expected: bool) -> None:
    assert Globs([pattern]).matches(path) is expected


@pytest.mark.parametrize("pattern", ["", "/a", "a//b", "../x", "a/../b", "."])
def test_patterns_that_never_match_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="relative"):
        normalise(pattern)


def test_covers_only_what_is_wholly_taken() -> None:
    globs = Globs(["**/drafts/**", "old/*.md", "x/y/**"])
    assert globs.covers("drafts")
    assert globs.covers("a/drafts")
    assert globs.covers("x/y")
    assert not globs.covers("x")
    assert not globs.covers("old")
    assert Globs(["**"]).covers("anything")
    assert not Globs([]).covers("a")


@given(st.text("ab[]!-*?.", max_size=8).filter(lambda t: t not in ("", ".", "..", "**")), st.text("ab[]!-.", max_size=6))
def test_one_segment_agrees_with_fnmatch(pattern: str, name: str) -> None:
    assert Globs([pattern]).matches(name) == fnmatchcase(name, pattern)


@given(
    st.lists(st.sampled_from(["**", "a", "*", "b*"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "b", "bb"]), min_size=1, max_size=5),
)
def test_segments_agree_with_a_plain_definition(pattern: list[str], path: list[str]) -> None:
    def matches(p: list[str], s: list[str]) -> bool:
        if not p:
            return not s
        if p[0] == "**":
            if len(p) == 1:
                return len(s) >= 1
            return matches(p[1:], s) or (bool(s) and matches(p, s[1:]))
        return bool(s) and fnmatchcase(s[0], p[0]) and matches(p[1:], s[1:])

    joined = [p for i, p in enumerate(pattern) if not (p == "**" and i and pattern[i - 1] == "**")]
    assert Globs(["/".join(pattern)]).matches("/".join(path)) == matches(joined, path)
