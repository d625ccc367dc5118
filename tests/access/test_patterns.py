"""Which paths a glob means."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.patterns import MAX_PASSED, DenyPattern, DenySet, PathPattern, lax_forms

MATCHES = {
    "a plain glob is that path": ("/v1/me", "/v1/me", True),
    "a plain glob is no prefix": ("/v1/me", "/v1/me/x", False),
    "a plain glob does not ignore a trailing slash": ("/v1/me", "/v1/me/", False),
    "the root is only the root": ("/", "/", True),
    "the root is nothing below": ("/", "/a", False),
    "letter case counts": ("/v1/Me", "/v1/me", False),
    "a dot is a dot": ("/a.c", "/abc", False),
    "a plus and parentheses are themselves": ("/a+(b)$", "/a+(b)$", True),
    "a star stands for one segment": ("/v1/*/x", "/v1/me/x", True),
    "a star stands for an empty run": ("/v1/a*", "/v1/a", True),
    "a star does not cross a segment": ("/v1/*/x", "/v1/me/y/x", False),
    "a star at the end does not cross a segment": ("/v1/*", "/v1/me/x", False),
    "a star fits a line break, which is no end": ("/v1/*", "/v1/a\nb", True),
    "a path that ends with a line break is another path": ("/v1/me", "/v1/me\n", False),
    "stars within a segment": ("/x/a*b*c", "/x/a1b2b3c", True),
    "stars within a segment, the tail not there": ("/x/a*b*c", "/x/a1b2b3cd", False),
    "two chunks do not overlap": ("/x/ab*ba", "/x/aba", False),
    "two chunks side by side": ("/x/ab*ba", "/x/abba", True),
    "the same tail twice": ("/x/*.json", "/x/a.json.json", True),
    "everything below": ("/v1/**", "/v1/a/b/c", True),
    "everything below, the folder itself": ("/v1/**", "/v1/", True),
    "everything below leaves the name alone": ("/v1/**", "/v1", False),
    "everything below ends at a segment": ("/v1/**", "/v10/a", False),
    "everything": ("/**", "/", True),
    "in the middle, no segment": ("/a/**/b", "/a/b", True),
    "in the middle, some segments": ("/a/**/b", "/a/x/y/b", True),
    "in the middle, the end missing": ("/a/**/b", "/a/x/y", False),
    "in the middle, the end not at the end": ("/a/**/b", "/a/b/c", False),
    "a star after everything": ("/a/**/b*", "/a/x/bee", True),
    "a block after everything is found again": ("/a/**/b/c", "/a/b/x/b/c", True),
    "everything twice": ("/a/**/b/**/c", "/a/1/b/2/3/c", True),
    "everything twice, the middle missing": ("/a/**/b/**/c", "/a/1/2/3/c", False),
    "everything at the front": ("/**/c", "/a/b/c", True),
    "everything at the front, nothing before": ("/**/c", "/c", True),
    "a star and then everything": ("/*/x/**", "/a/x/b/c", True),
    "a star and then everything, nothing below": ("/*/x/**", "/a/x", False),
}


@pytest.mark.parametrize(("glob", "path", "expected"), MATCHES.values(), ids=MATCHES)
def test_matches_what_the_glob_means(glob: str, path: str, expected: bool) -> None:
    """
    A star stays in its segment, two stars cross segments, everything else is itself.
    """
    assert expected is PathPattern.compile(glob).matches(path)


REFUSED = {
    "nothing": ("", 'begins with "/"'),
    "no slash at the front": ("v1/me", 'begins with "/"'),
    "a query": ("/v1?x=1", "canonical form"),
    "a character class": ("/v1/[ab]", "canonical form"),
    "a brace": ("/v1/{id}", "canonical form"),
    "a path parameter": ("/v1;x/a", "canonical form"),
    "a space": ("/v1/a b", "canonical form"),
    "a letter outside of ASCII": ("/v1/é", "canonical form"),
    "lower-case hex": ("/v1/a%2fb", "canonical form"),
    "an encoding cut short": ("/v1/a%2", "canonical form"),
    "an encoded letter": ("/v1/%41", "without percent-encoding"),
    "an encoded dot": ("/v1/%2E%2E", "without percent-encoding"),
    "a dot segment": ("/v1/../a", "empty segment"),
    "an empty segment": ("/v1//a", "empty segment"),
    "two stars and more in a segment": ("/v1/a**", "whole segment"),
    "three stars": ("/v1/***", "whole segment"),
    "a very long glob": ("/" + "a" * 2000, "at most"),
}


@pytest.mark.parametrize(("glob", "expected"), REFUSED.values(), ids=REFUSED)
def test_refuses_a_glob_that_never_fits(glob: str, expected: str) -> None:
    """
    A glob that no canonical path can fit is an error, and says what was expected.
    """
    with pytest.raises(ValueError, match=re.escape(expected)):
        PathPattern.compile(glob)


DENIES = {
    "exactly": ("/admin/**", "/admin/x", True),
    "letter case": ("/admin/**", "/Admin/X", True),
    "an encoded letter": ("/admin/**", "/%61dmin/x", True),
    "an encoded comma": ("/a,b", "/a%2Cb", True),
    "encoded twice": ("/admin", "/%2561dmin", True),
    "an encoded slash": ("/admin/x", "/admin%2Fx", True),
    "a backslash": ("/admin/x", "/admin%5Cx", True),
    "a parameter": ("/admin", "/admin;v=1", True),
    "an encoded parameter": ("/admin/x", "/admin%3Bv=1/x", True),
    "a trailing dot": ("/admin", "/admin.", True),
    "an encoded trailing space": ("/admin/x", "/admin%20/x", True),
    "an encoded NUL": ("/admin", "/admin%00.png", True),
    "a trailing slash": ("/admin", "/admin/", True),
    "a trailing slash left out": ("/admin/", "/admin", True),
    "the folder's name": ("/admin/**", "/admin", True),
    "a doubled slash": ("/admin/x", "/admin//x", True),
    "a full-width letter": ("/admin", "/%EF%BD%81dmin", True),
    "the pattern's own upper case": ("/Admin/*", "/admin/x", True),
    "a star keeps to its segment": ("/admin/*", "/admin/x/y", False),
    "another path": ("/admin/**", "/administration/x", False),
    "another path with a dot inside": ("/v1.0", "/v10", False),
    "the root": ("/", "/", True),
    "not everything is the root": ("/", "/a", False),
}


@pytest.mark.parametrize(("glob", "path", "expected"), DENIES.values(), ids=DENIES)
def test_denies_what_a_careless_server_takes_for_the_path(glob: str, path: str, expected: bool) -> None:
    """
    A deny's glob also fits the spellings that an upstream may take for the path (threats C5).
    """
    assert expected is DenyPattern.compile(glob).matches(path, lax_forms(path))


def _reference(glob: str, path: str) -> bool:
    """A slow matcher that tries everything."""

    def segment(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(segment(pattern[1:], text[cut:]) for cut in range(len(text) + 1))
        return bool(text) and text[0] == pattern[0] and segment(pattern[1:], text[1:])

    def segments(patterns: list[str], texts: list[str]) -> bool:
        if not patterns:
            return not texts
        if patterns == ["**"]:
            return bool(texts)
        if patterns[0] == "**":
            return any(segments(patterns[1:], texts[cut:]) for cut in range(len(texts) + 1))
        return bool(texts) and segment(patterns[0], texts[0]) and segments(patterns[1:], texts[1:])

    return segments(glob.split("/")[1:], path.split("/")[1:])


_PIECES = st.lists(st.sampled_from(["a", "b", "ab", "*", "a*", "*b", "a*b", "*a*", "**"]), min_size=1, max_size=5)
_PATHS = st.lists(st.text("ab", max_size=4), min_size=1, max_size=6)


@given(_PIECES, _PATHS)
def test_agrees_with_a_matcher_that_tries_everything(pieces: list[str], names: list[str]) -> None:
    """
    Giving nothing back loses no match.
    """
    glob, path = "/" + "/".join(pieces), "/" + "/".join(names)

    assert _reference(glob, path) is PathPattern.compile(glob).matches(path)


@given(st.lists(st.sampled_from(["a", "b", "a*", "*b", "**"]), min_size=1, max_size=4), _PATHS)
def test_deny_fits_at_least_what_the_glob_fits(pieces: list[str], names: list[str]) -> None:
    """
    Reading a deny laxly never makes it narrower.
    """
    glob, path = "/" + "/".join(pieces), "/" + "/".join(names)
    if PathPattern.compile(glob).matches(path):
        assert DenyPattern.compile(glob).matches(path, lax_forms(path))


@pytest.mark.parametrize("glob", ["/" + "*a" * 40, "/**" * 12 + "/b", "/" + "a*" * 300 + "b", "/**/*a*a*a*b/**/c"])
def test_ends_soon_on_the_longest_path(glob: str) -> None:
    """
    No glob makes the longest path expensive: a matcher that tries everything would not end in this test's lifetime.
    """
    for path in ("/" + "a" * 8189, "/a" * 4095, "/" + "ab" * 4000):
        assert PathPattern.compile(glob).matches(path) in (True, False)
    assert sys.version_info >= (3, 11)  # atomic groups


GLOBS = ("/a/b/*", "/**/keys", "/**/Keys/*:sign", "/*", "/**/x/**", "/a%2Fb/c", "/...", "/v1/*.json", "/**/oauth.*")
SET = DenySet.compile(GLOBS[:3] + GLOBS[4:])
LAX_PATHS = st.lists(
    st.sampled_from(
        ["a", "A", "b", "keys", "KEYS.", "k%2565ys", "x", "y:sign", "...", "a%2Fb", "c", "v1.json", "oauth.x"]
    ),
    min_size=1,
    max_size=4,
).map(lambda segments: "".join(f"/{segment}" for segment in segments))


@given(LAX_PATHS)
def test_set_matches_what_one_of_its_globs_matches(path: str) -> None:
    """
    A set tells of a path what its globs tell, asked for the first time and again.
    """
    forms = lax_forms(path)
    expected = any(DenyPattern.compile(glob).matches(path, forms) for glob in GLOBS[:3] + GLOBS[4:])

    assert [expected] * 2 == [SET.matches(path) for _ in range(2)]


def test_set_remembers_a_bounded_number_of_paths() -> None:
    """
    A caller who invents paths does not make a set remember them all; a glob without a literal segment is always asked.
    """
    asked = DenySet.compile(["/*"])

    assert (True, False) == (bool(asked), bool(DenySet.compile([])))
    assert [True, False] == [asked.matches("/x"), asked.matches("/x/y")]
    for number in range(MAX_PASSED + 100):
        assert not asked.matches(f"/x/{number}")
    assert MAX_PASSED == len(asked._passed)
    fresh = DenySet.compile(["/*"])
    assert [False, 0] == [fresh.matches("/x/" + "y" * 500), len(fresh._passed)]


def test_set_asks_each_glob_once_for_a_path_of_many_segments() -> None:
    """
    A path that repeats a telling segment thousands of times costs no more than one that has it once.
    """
    calls: list[int] = []

    def count(frame: object, event: str, argument: object) -> None:
        calls.append(event == "c_call")

    asked = DenySet.compile(["/**/keys/x", "/**/tokens"])
    sys.setprofile(count)
    try:
        assert not asked.matches("/keys" * 1600)
    finally:
        sys.setprofile(None)
    assert 200 > sum(calls)
