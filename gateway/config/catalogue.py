"""
A connection's `template`: what the entry leaves out, the catalogue's provider fills in.

Rules:
1. The entry's own keys win, a null among them. Name, client and secret are always the entry's.
2. What was filled in stands at the place of `template`: an error about it points there.
3. Where its metadata lies is filled in only where the entry names no endpoint: metadata of one authorization server
   does not speak of another's.
4. A grant that the provider does not offer is refused.
5. How the provider's OAuth differs from the standard is not copied: the vault looks it up (gateway/providers).

Works on the document, before its shape is checked: what is filled in is checked like everything else.
"""

from __future__ import annotations

from typing import get_args

from gateway.config.document import Document
from gateway.config.problems import Path, did_you_mean
from gateway.providers.catalogue import Provider, VariableInvalid, catalogue
from gateway.providers.quirks import Grant
from gateway.providers.variables import one_of

GRANTS = get_args(Grant)  # other words the shape refuses


def fill_in(document: Document) -> None:
    """Fill every connection of *document* that has a template, and note what is wrong with template or variables."""
    for index, entry in enumerate(document.entries("connections")):
        if isinstance(entry, dict):
            _connection(document, ("connections", index))


def _connection(document: Document, base: Path) -> None:
    path = (*base, "template")
    template = document.text(*path)
    if template is None or path in document.unfilled:
        if document.get(*base, "variables") and document.get(*path) is None:
            document.refuse((*base, "variables"), "expected only with a template, found none", at_key=True)
        return
    if template not in catalogue():
        near = "" if path in document.templates else did_you_mean(template, catalogue())
        expected = "expected a provider of the catalogue (gateway connections templates)"
        document.refuse(path, f"{expected}, found {document.found(path)}{near}")
        return
    provider = catalogue()[template]
    if document.get(*base, "type") not in (None, provider.kind):
        found = document.found((*base, "type"))
        document.refuse((*base, "type"), f"expected {provider.kind}, as the template has it, found {found}")
        return
    _check_grant(document, (*base, "grant_type"), provider)
    values = _variables(document, (*base, "variables"), provider)
    if values is not None:
        _fill(document, base, provider.with_variables(values))


def _check_grant(document: Document, path: Path, provider: Provider) -> None:
    grant, offered = document.get(*path), provider.quirks.grants
    if provider.kind == "oauth" and grant in GRANTS and grant not in offered and path not in document.unfilled:
        expected = f"expected a grant that the template's provider offers ({', '.join(offered)})"
        document.refuse(path, f"{expected}, found {document.found(path)}")


def _variables(document: Document, path: Path, provider: Provider) -> dict[str, str] | None:
    """Return the values of the provider's variables at *path*, or None with what is wrong noted, here or later."""
    given = document.get(*path)
    if given is None:
        given = {}
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        return None  # the shape will tell
    known = {variable.name: variable for variable in provider.variables}
    count = len(document.problems)
    for name in given.keys() - known.keys():
        hint = did_you_mean(name, known) or f"; expected {one_of(known)}"
        document.refuse((*path, name), f"unknown variable of this template{hint}", at_key=True)
    for name, variable in known.items():
        place = (*path, name)
        if name in given:
            try:
                variable.check(str(given[name]))
            except VariableInvalid as exc:
                document.refuse(place, f"{exc.expected}, found {document.found(place)}")
        elif variable.default is None:
            document.refuse(place, f"required ({variable.description}, like {variable.example}), and missing")
    is_whole = len(document.problems) == count and not any((*path, name) in document.unfilled for name in given)
    return {name: str(value) for name, value in given.items()} if is_whole else None


def _fill(document: Document, base: Path, provider: Provider) -> None:
    filled: dict[str, object] = {
        "description": provider.description,
        "type": provider.kind,
        "authorization_url": provider.authorization_url,
        "token_url": provider.token_url,
        "revocation_url": provider.revocation_url,
        "scopes": list(provider.default_scopes),
        "origins": list(provider.origins),
    }
    entry = document.get(*base)
    if not any(key in entry for key in ("authorization_url", "token_url", "revocation_url")):
        filled["discovery_url"] = provider.discovery_url
    place = document.values[(*base, "template")]
    for key, value in filled.items():
        if key not in entry and value:
            entry[key] = value
            document.keys[(*base, key)] = document.values[(*base, key)] = place
