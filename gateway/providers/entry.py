"""
A YAML file becomes a `Provider`, or an error that names the file, the line, the key and what was expected.

Rules:
1. The file is YAML without aliases, tags and duplicate keys; scalars are read as YAML 1.2 core does (`on` is text).
2. Every key is known, every value has its type, and nothing is coerced. The id is the file's name.
3. URLs are https, without user part, port 443 unwritten, query and fragment; origins are canonical.
4. Variables stand for whole labels of a host or whole segments of a path (variables.py), each is declared, each is
   used, and its example and default are valid.
5. An apikey provider has no endpoints and no quirks but `rejected`; an oauth provider has an authorization URL and a
   token URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.models import Rejected, UpstreamRules
from gateway.providers.provider import Provider
from gateway.providers.quirks import TENANT, Quirks
from gateway.providers.schema import ProviderFile, QuirksFile, UpstreamFile, VariableFile
from gateway.providers.variables import Form, Variable, VariableInvalid, names_in

MAX_BYTES = 65_536
# libyaml where PyYAML has it: a start reads the whole catalogue, in 26 ms of CPU, where PyYAML's own parser takes 142.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_NAME = re.compile(r"[a-z][a-z_]{0,30}")
_LABEL = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?|\{[a-z][a-z_]{0,30}\})"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))(?:[A-Za-z0-9._~@-]+|\{[a-z][a-z_]{0,30}\}))*/?")
_POINTER = re.compile(r"(?:/[^/]+)*")  # RFC 6901
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"0|[1-9][0-9]{0,9}")
_URLS = ("authorization_url", "token_url", "revocation_url", "discovery_url")


class EntryInvalid(Exception):
    """A provider's file cannot be used: file, line, key, what was expected."""


def read(provider_id: str, content: bytes) -> Provider:
    """
    Return the provider that *content*, the file `<provider_id>.yaml`, describes.

    Raises:
        EntryInvalid: names file, line and key of the first thing that is wrong.
    """
    file = _File(f"{provider_id}.yaml")
    if ID.fullmatch(provider_id) is None:
        raise file.invalid((), "expected a name of a-z, 0-9 and inner hyphens")
    data = file.data(content)
    try:
        entry = ProviderFile.model_validate(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        raise file.invalid(first["loc"], first["msg"]) from None
    for path, problem in _problems(entry):
        raise file.invalid(path, problem)
    return _provider(provider_id, entry)


class _File:
    """One file's name and the lines of its keys."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: dict[tuple[str | int, ...], int] = {}

    def invalid(self, path: tuple[str | int, ...], text: str) -> EntryInvalid:
        line = next((self._lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self._lines), 1)
        key = ".".join(str(step) for step in path)
        return EntryInvalid(f"{self._name}:{line}: {key}: {text}" if key else f"{self._name}:{line}: {text}")

    def data(self, content: bytes) -> Any:
        if len(content) > MAX_BYTES:
            raise self.invalid((), f"expected at most {MAX_BYTES} bytes")
        try:
            text = content.decode()
            for token in yaml.scan(text, Loader=LOADER):
                if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
                    self._lines[()] = token.start_mark.line + 1
                    raise self.invalid((), "expected no alias and no tag")
            node = yaml.compose(text, Loader=LOADER)
        except UnicodeDecodeError:
            raise self.invalid((), "expected UTF-8 text") from None
        except (yaml.YAMLError, RecursionError) as exc:
            mark = getattr(exc, "problem_mark", None)
            self._lines[()] = mark.line + 1 if mark is not None else 1
            raise self.invalid((), "expected YAML") from None
        return None if node is None else self._value(node, ())

    def _value(self, node: Node, path: tuple[str | int, ...]) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, SequenceNode):
            return [self._value(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        text = str(node.value)
        if not isinstance(node, ScalarNode) or node.style:  # plain: "" from libyaml, None from PyYAML itself
            return text
        return int(text) if _INTEGER.fullmatch(text) else _WORDS.get(text, text)

    def _mapping(self, node: MappingNode, path: tuple[str | int, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = str(key_node.value) if isinstance(key_node, ScalarNode) else ""
            if not key or key in data:
                self._lines[(*path, key)] = line
                raise self.invalid((*path, key), "expected each key once, and as plain text")
            self._lines[(*path, key)] = line
            data[key] = self._value(value_node, (*path, key))
        return data


Problem = tuple[tuple[str | int, ...], str]


def _problems(entry: ProviderFile) -> Iterator[Problem]:
    """Yield what is wrong between and inside the values of *entry*, whose shape is right."""
    if not entry.docs_url or "{" in entry.docs_url:
        yield ("docs_url",), "expected the https URL of a page"
    yield from _kind_problems(entry)
    urls: list[tuple[tuple[str | int, ...], str]] = [(("docs_url",), entry.docs_url)]
    urls += [((key,), url) for key in _URLS if (url := getattr(entry, key))]
    if entry.quirks.refresh_url is not None:
        urls.append((("quirks", "refresh_url"), entry.quirks.refresh_url))
    if entry.quirks.userinfo_url:
        urls.append((("quirks", "userinfo_url"), entry.quirks.userinfo_url))
    for path, url in urls:
        yield from ((path, problem) for problem in _url_problems(url))
    for index, origin in enumerate(entry.origins):
        if origin.count("/") != 2:
            yield ("origins", index), "expected https://host[:port], no path"
        yield from ((("origins", index), problem) for problem in _url_problems(origin))
    if len(set(entry.origins)) < len(entry.origins):
        yield ("origins",), "expected each origin once"
    yield from _variable_problems(entry, [*(url for _, url in urls), *entry.origins])
    yield from _quirk_problems(entry.quirks)
    yield from _upstream_problems(entry.upstream)
    yield from _account_problems(entry)


def _kind_problems(entry: ProviderFile) -> Iterator[Problem]:
    if entry.kind == "oauth":
        if not entry.authorization_url:
            yield ("authorization_url",), "required with kind oauth"
        if not entry.token_url:
            yield ("token_url",), "required with kind oauth"
        return
    for key in (*_URLS, "default_scopes"):
        if getattr(entry, key):
            yield (key,), "expected only with kind oauth"
    if entry.quirks.model_fields_set - {"rejected"}:
        yield ("quirks",), "expected nothing but rejected with kind apikey"


def _url_problems(url: str) -> Iterator[str]:
    scheme, separator, rest = url.partition("://")
    if scheme != "https" or not separator:
        yield "expected a URL that begins with https://"
        return
    authority, slash, path = rest.partition("/")
    host, colon, port = authority.partition(":")
    if _HOST.fullmatch(host) is None:
        yield "expected a host name in lower case, variables only as whole labels"
    if colon and (_PORT.fullmatch(port) is None or port == "443" or int(port) > 65_535):
        yield "expected a port from 1 to 65535, and none for 443"
    if _PATH.fullmatch(slash + path) is None:
        yield "expected a plain path without query, variables only as whole segments"


def _variable_problems(entry: ProviderFile, urls: list[str]) -> Iterator[Problem]:
    used = {name for url in urls for name in names_in(url)}
    for name in sorted(used - set(entry.variables)):
        yield ("variables",), f"expected {name} to be declared, it is used"
    for name, variable in entry.variables.items():
        path = ("variables", name)
        if _NAME.fullmatch(name) is None:
            yield path, "expected a name of a-z and _"
        if name not in used:
            yield path, "expected a variable that is used"
        try:
            re.compile(variable.pattern)
            declared = _variable(name, variable)
            for value in (variable.example, *([variable.default] if variable.default is not None else [])):
                declared.check(value)
        except re.error:
            yield (*path, "pattern"), "expected a regular expression"
        except VariableInvalid as exc:
            yield path, f"expected an example and a default that are valid: {exc}"
        for url in urls:
            yield from ((path, problem) for problem in _place_problems(f"{{{name}}}", variable.form, url))


def _place_problems(place: str, form: Form, url: str) -> Iterator[str]:
    authority, _, path = url.partition("://")[2].partition("/")
    host = authority.partition(":")[0]
    if place in path and form not in ("segment", "label"):
        yield "expected form segment or label, it stands in a path"
    if place in host and form == "segment":
        yield "expected form label, labels or host, it stands in a host"
    if form == "host" and place in host and host != place:
        yield "expected form label or labels, it is a part of a host"
    if form != "host" and place in host and len([label for label in host.split(".") if "{" not in label]) < 2:
        # Two literal labels are the least that belongs to somebody: "acme.com" is the provider's, "com" is not.
        yield "expected form host, or two labels of the provider's own beside it"
    if form != "host" and place in host and "{" in ".".join(host.split(".")[-2:]):
        yield "expected the provider's own domain behind it"


def _quirk_problems(quirks: QuirksFile) -> Iterator[Problem]:
    if quirks.issuer:
        yield from ((("quirks", "issuer"), problem) for problem in _issuer_problems(quirks.issuer))
    if _POINTER.fullmatch(quirks.token_path) is None:
        yield ("quirks", "token_path"), "expected a JSON pointer, like /authed_user"
    for index, rejected in enumerate(quirks.rejected):
        path = ("quirks", "rejected", index)
        if _POINTER.fullmatch(rejected.pointer) is None:
            yield (*path, "pointer"), "expected a JSON pointer, like /error"
        if bool(rejected.pointer) != bool(rejected.values):
            yield path, "expected pointer and values together"
        if rejected.status < 400 and not rejected.pointer:
            yield path, "expected a pointer: not every answer of this status rejects the token"


def _upstream_problems(upstream: UpstreamFile) -> Iterator[Problem]:
    for index, origin in enumerate(upstream.origins):
        if origin.count("/") != 2 or "{" in origin:
            yield ("upstream", "origins", index), "expected https://host[:port] or https://*.host, no path"
        plain = origin.replace("://*.", "://any.", 1)
        yield from ((("upstream", "origins", index), problem) for problem in _url_problems(plain))
    for index, name in enumerate(upstream.credential_fields):
        if name.lower() in ("authorization", "cookie", "host"):
            yield ("upstream", "credential_fields", index), "expected a field beside those that never cross"


def _account_problems(entry: ProviderFile) -> Iterator[Problem]:
    quirks = entry.quirks
    for key in ("account_path", "userinfo_path"):
        if _POINTER.fullmatch(getattr(quirks, key)) is None:
            yield ("quirks", key), "expected a JSON pointer, like /user/id"
    if bool(quirks.userinfo_url) != bool(quirks.userinfo_path):
        yield ("quirks",), "expected userinfo_url and userinfo_path together"
    if quirks.userinfo_url and "/".join(quirks.userinfo_url.split("/")[:3]) not in entry.origins:
        yield ("quirks", "userinfo_url"), "expected an address at one of origins: the token goes there"


def _issuer_problems(issuer: str) -> Iterator[str]:
    if f"/{TENANT}/" not in f"{issuer.partition('://')[2].removeprefix('/')}/":
        yield f"expected {TENANT} as a whole segment of the path; without one, metadata says it"
    # It is no variable of a connection: what stands for it comes with each id token.
    rest = issuer.replace(TENANT, "tenant", 1)
    if "{" in rest:
        yield f"expected no variables, and {TENANT} once"
    yield from _url_problems(rest)


def _variable(name: str, file: VariableFile) -> Variable:
    return Variable(
        name=name,
        description=file.description,
        form=file.form,
        pattern=file.pattern,
        example=file.example,
        default=file.default,
    )


def _provider(provider_id: str, entry: ProviderFile) -> Provider:
    return Provider(
        id=provider_id,
        name=entry.name,
        description=entry.description,
        docs_url=entry.docs_url,
        kind=entry.kind,
        authorization_url=entry.authorization_url,
        token_url=entry.token_url,
        revocation_url=entry.revocation_url,
        discovery_url=entry.discovery_url,
        default_scopes=tuple(entry.default_scopes),
        origins=tuple(entry.origins),
        variables=tuple(_variable(name, variable) for name, variable in entry.variables.items()),
        quirks=_quirks(entry),
        upstream=_upstream(entry),
        upstream_origins=tuple(entry.upstream.origins),
    )


def _upstream(entry: ProviderFile) -> UpstreamRules:
    file = entry.upstream
    return UpstreamRules(
        credential_fields=frozenset(name.lower() for name in file.credential_fields),
        credential_params=frozenset(file.credential_params),
        rejected=_rejected(entry),
        minting_paths=tuple(file.minting_paths),
        multiplex_paths=tuple(file.multiplex_paths),
    )


def _rejected(entry: ProviderFile) -> tuple[Rejected, ...]:
    return tuple(Rejected(each.status, each.pointer, tuple(each.values)) for each in entry.quirks.rejected)


def _quirks(entry: ProviderFile) -> Quirks:
    file = entry.quirks
    return Quirks(
        token_auth=file.token_auth,
        token_body=file.token_body,
        scope_separator=file.scope_separator,
        scopes_param=file.scopes_param,
        pkce=file.pkce,
        refresh_url=file.refresh_url,
        refresh_scope=file.refresh_scope,
        revocation_auth=file.revocation_auth,
        authorization_params=tuple(file.authorization_params.items()),
        code_params=tuple(file.code_params.items()),
        refresh_params=tuple(file.refresh_params.items()),
        token_errors_with_status_200=file.token_errors_with_status_200,
        dead_grant_errors=tuple(file.dead_grant_errors),
        token_path=file.token_path,
        default_expires_seconds=file.default_expires_seconds,
        accept_header=file.accept_header,
        refresh_token_rotates=file.refresh_token_rotates,
        issues_refresh_tokens=file.issues_refresh_tokens,
        account_path=file.account_path,
        userinfo_url=file.userinfo_url,
        userinfo_path=file.userinfo_path,
        issuer=file.issuer,
        rejected=_rejected(entry),
        grants=tuple(file.grants or (("authorization_code",) if entry.kind == "oauth" else ("api_key",))),
    )
