"""
What holds for the tree as a whole: tests mirror the sources, locks name no addresses, docs name every code and command.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from re import _parser  # nobody else tells what a pattern is made of
from types import ModuleType
from typing import Any

import click
import pytest

import gateway.errors
from tests import tools
from tests.tools import ROOT

# Source files without a test file of their name: they hold data and decide nothing.
DECIDES_NOTHING: Mapping[str, str] = {
    "gateway/errors.py": "codes, statuses and sentences; checked in this file",
    "gateway/models.py": "frozen values without behaviour, used by every test",
    "gateway/store/schema.py": "tables without behaviour; the tests of the store run on them",
    "gateway/config/schema_base.py": "the shape of routes.yaml; tests/config/test_schema.py has all three files",
    "gateway/config/schema_routes.py": "likewise",
    "gateway/providers/schema.py": "the shape of a provider's file; tests/providers/test_entry.py has the entries",
    "gateway/vault/page_texts.py": "what the pages say; tests/vault/test_pages.py reads them as a browser does",
    "gateway/demo/people.py": "made-up people and nothing else",
}
NEVER_DECIDES = frozenset({"__init__.py", "__main__.py"})

# An address or host of a package index has no place in the tree: which one is used is the machine's business.
REGISTRY_HOSTS = re.compile(
    r"pypi\.|pythonhosted|registry\.npmjs|npmjs\.org|deb\.debian|security\.debian|artifactory", re.I
)
LOCKS = (
    *("requirements.lock", "requirements-dev.lock", "requirements-build.lock"),
    *("bench/peers/envoy.lock", "bench/peers/mitmproxy.lock"),
)
ADDRESS = re.compile(r"[a-z+]+://|^-(?:i|f|-index|-extra-index|-find-links)", re.I | re.M)


def sources() -> Iterator[Path]:
    """Every source file of the package that may decide something, relative to the root."""
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        relative = path.relative_to(ROOT)
        if path.name not in NEVER_DECIDES and "migrations" not in relative.parts:
            yield relative


def mirror_of(source: Path) -> Path:
    """tests/proxy/test_routing.py for gateway/proxy/routing.py."""
    inside = source.relative_to("gateway")
    return Path("tests") / inside.with_name(f"test_{inside.name}")


def tracked_files() -> list[Path]:
    """The files that a commit would hold; where there is no git, those beside the sources."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0 and listing.stdout:
        names = listing.stdout.decode().split("\0")
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    kept = [ROOT / name for name in ("gateway", "tests", "bench", "docker", "docs", ".ci")]
    files = [path for folder in kept for path in folder.rglob("*") if path.is_file()]
    files.extend(path for path in ROOT.iterdir() if path.is_file())
    return [path for path in files if not {"node_modules", "__pycache__"} & set(path.parts)]


def text_of(path: Path) -> str:
    """The file as text, the empty string for a binary one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("source", list(sources()), ids=str)
def test_source_file_has_its_test_file(source: Path) -> None:
    """
    Each source file that decides something has the test file of its name.
    """
    if source.as_posix() in DECIDES_NOTHING:
        return
    assert (ROOT / mirror_of(source)).is_file(), f"{source} has no {mirror_of(source)}"


def test_exemptions_name_files_that_exist() -> None:
    """
    The table of sources without tests holds no file that has gone.
    """
    assert [] == [name for name in DECIDES_NOTHING if not (ROOT / name).is_file()]


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_pins_with_hashes_and_names_no_address(lock: str) -> None:
    """
    Each line of a lock is a pinned version or a hash of it: no address, no option, no path.
    """
    text = (ROOT / lock).read_text()

    assert None is ADDRESS.search(text)
    for entry in text.replace("\\\n", "").splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+", entry.rstrip()), entry


def test_locks_agree() -> None:
    """
    A package has the same version in all locks, so that tests run what is shipped.
    """
    pins = [
        dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", (ROOT / lock).read_text(), re.M))
        for lock in ("requirements-dev.lock", "requirements.lock", "requirements-build.lock")
    ]

    assert pins[0] == pins[0] | pins[1] | pins[2]


@pytest.mark.parametrize("project", ["tests/oidc_provider", "tests/node_sdk", "bench/peers/express_proxy"])
def test_package_lock_names_no_address(project: str) -> None:
    """
    npm's lock pins by version and integrity, and records no `resolved` address.
    """
    lock = json.loads((ROOT / project / "package-lock.json").read_text())

    packages = {name: package for name, package in lock["packages"].items() if name}
    assert [] == [name for name, package in packages.items() if "resolved" in package]
    assert [] == [name for name, package in packages.items() if "integrity" not in package]


def test_no_path_of_this_machine_and_no_registry_in_the_tree() -> None:
    """
    No file names the directory of this checkout or the one above, a home directory, or the host of a package registry.
    """
    places = {ROOT, ROOT.parent, Path.home()} - {Path("/"), Path(tempfile.gettempdir())}
    # Not inside of a longer path: "/outbound/app/" is no place in a checkout at "/app".
    of_this_machine = re.compile(rf"(?<![\w.}}/-])(?:{'|'.join(re.escape(f'{place}/') for place in sorted(places))})")

    found = [
        f"{path.relative_to(ROOT)}: {match}"
        for path in tracked_files()
        if path != Path(__file__).resolve()
        for text in [text_of(path)]
        for match in [*of_this_machine.findall(text), *REGISTRY_HOSTS.findall(text)]
    ]

    assert [] == found


# Each with the beginning by which its provider's scanner, or ours, finds it. What tests make up is shorter, or says so.
REAL_SECRETS = re.compile(
    r"\bgh[pousr]_[A-Za-z0-9]{36}\b|\bgithub_pat_\w{82}\b|\bxox[abpr]-\d{9,}-\d{9,}-[\w-]{20,}|\bAKIA[A-Z0-9]{16}\b"
    r"|\bAIza[\w-]{35}\b|\b[rs]k_live_\w{24,}|\bsk-(?:proj|ant)-[\w-]{40,}|\bglpat-[\w-]{20}\b|\bya29\.[\w-]{60,}"
    r"|\bgw[am]_[0-9A-Za-z]{20}_[0-9A-Za-z]{49}\b|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\n"
)


def test_no_real_secret_in_the_tree() -> None:
    """
    No file holds what has the form of a provider's token, of a key of the gateway's, or of a private key (threats E14).
    """
    shown = "ghp_" + "a" * 36 + " gwa_" + "0" * 20 + "_" + "1" * 49
    found = [path.relative_to(ROOT) for path in tracked_files() if REAL_SECRETS.search(text_of(path))]

    assert 2 == len(REAL_SECRETS.findall(shown))
    assert [] == found


def test_no_task_inherits_whose_call_it_is() -> None:
    """
    Who calls is handed on as a value: no context variable, no module's variable holds it; nothing is unpickled (D13).
    """
    forbidden = re.compile(
        r"ContextVar\(|bind_contextvars|\bthreading\.local\b|\b(?:import|from) (?:pickle|marshal|shelve)\b"
    )
    texts = {path: text_of(ROOT / path) for path in sources()}
    # The second that the record's times were last written in is nobody's; which coroutine runs says not for whom.
    written = {
        path.as_posix(): found
        for path, text in texts.items()
        if (found := {*re.findall(r"^ +global (.+)", text, re.M)})
    }

    assert [] == [path for path, text in texts.items() if forbidden.search(text)]
    assert {"gateway/proxy/record.py": {"_second, _second_text"}, "gateway/proxy/steps.py": {"_current"}} == written


@pytest.mark.parametrize("required", [False, True], ids=["on a developer's machine", "in CI"])
def test_missing_tool_skips_by_name_or_fails(monkeypatch: pytest.MonkeyPatch, *, required: bool) -> None:
    """
    A test whose tool is missing is skipped with the command that installs it; in CI it fails with the same words.
    """
    monkeypatch.setenv("GATEWAY_REQUIRE_TOOLS", "1" if required else "0")

    outcome = pytest.fail.Exception if required else pytest.skip.Exception
    with pytest.raises(outcome, match="wrk is missing: apt-get install wrk"):
        tools.missing("wrk", "apt-get install wrk")


def test_no_pattern_has_a_possessive_group() -> None:
    """
    CPython before 3.11.5, which Debian 12 has, takes half an iteration of one for a match (gh-106052).
    """
    patterns = {
        f"{name}.{attribute}": value
        for name, module in all_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, re.Pattern)
    }

    assert 40 <= len(patterns)
    assert [] == [name for name, pattern in patterns.items() if possessive_groups(pattern)]
    assert possessive_groups(re.compile("(?:ab)*+"))
    assert not possessive_groups(re.compile("(?>(?:a*+[b+]++)*)"))


def possessive_groups(pattern: re.Pattern[Any]) -> bool:
    return _has_possessive_group(_parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE))


def _has_possessive_group(parsed: Any) -> bool:
    for operation, argument in parsed:
        if str(operation) == "POSSESSIVE_REPEAT" and (
            len(argument[2]) > 1 or str(argument[2][0][0]) not in ("IN", "LITERAL", "ANY", "NOT_LITERAL")
        ):
            return True
        inner = argument if isinstance(argument, tuple | list) else (argument,)
        for part in inner:
            parts = part if isinstance(part, list) else [part]
            if any(isinstance(each, _parser.SubPattern) and _has_possessive_group(each) for each in parts):
                return True
    return False


def all_modules() -> Iterator[tuple[str, ModuleType]]:
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if not module.name.endswith("__main__"):
            yield module.name, importlib.import_module(module.name)


@pytest.mark.parametrize("code", sorted(refusal.code for refusal in gateway.errors.REFUSALS))
def test_error_code_is_documented(code: str) -> None:
    """
    Every code that a caller may meet stands in docs/errors.md.
    """
    assert f"`{code}`" in (ROOT / "docs" / "errors.md").read_text()


def test_error_codes_are_unique() -> None:
    """
    Scripts switch on a code: it names one refusal.
    """
    codes = [refusal.code for refusal in gateway.errors.REFUSALS]

    assert len(codes) == len(set(codes))


def test_command_is_documented() -> None:
    """
    Every command of the command line stands in README.md or docs/.
    """
    from gateway.cli import main

    documents = "\n".join(text_of(path) for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

    assert [] == [command for command in commands(main) if f"gateway {command}" not in documents]


def commands(group: click.Command, *, above: str = "") -> Iterator[str]:
    """The commands below *group* as they are typed: "keys create"."""
    if not isinstance(group, click.Group):
        yield above.strip()
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield from commands(command, above=f"{above} {name}")
