"""
The catalogue: every `<id>.yaml` of this directory, read when somebody asks for it.

Rules:
1. The names are known at once, a file is read on first use and kept: a process that uses one provider reads one file.
2. A connection refers to a provider by id and variables, so that a corrected file reaches it with the next release.
   For that reason no id is ever renamed or removed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable

from gateway.models import Rejected
from gateway.providers.entry import EntryInvalid, read
from gateway.providers.provider import Provider
from gateway.providers.quirks import Grant, Params, Quirks, RevocationAuth, TokenAuth
from gateway.providers.variables import Variable, VariableInvalid

__all__ = [
    "Catalogue", "EntryInvalid", "Grant", "Params", "Provider", "ProviderUnknown", "Quirks", "Rejected",
    "RevocationAuth", "TokenAuth", "Variable", "VariableInvalid", "catalogue", "resolve",
]  # fmt: skip
_SUFFIX = ".yaml"


class ProviderUnknown(KeyError):
    """The catalogue has no provider of this id; *near* is the id that was perhaps meant, or ""."""

    def __init__(self, near: str) -> None:
        self.near = near
        hint = f'; did you mean "{near}"?' if near else ""
        super().__init__(f"the catalogue has no such provider{hint}")

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would quote it


class Catalogue(Mapping[str, Provider]):
    """The providers of one directory by id, in the order of their ids."""

    def __init__(self, directory: Traversable) -> None:
        files = {each.name.removesuffix(_SUFFIX): each for each in directory.iterdir() if each.name.endswith(_SUFFIX)}
        self._files = dict(sorted(files.items()))
        self._read: dict[str, Provider] = {}

    def __getitem__(self, provider_id: str) -> Provider:
        """
        Return the provider *provider_id*, its variables not filled in.

        Raises:
            KeyError: there is none.
            EntryInvalid: its file is not as it must be.
        """
        if provider_id not in self._read:
            self._read[provider_id] = read(provider_id, self._files[provider_id].read_bytes())
        return self._read[provider_id]

    def __contains__(self, provider_id: object) -> bool:
        return provider_id in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def find(self, provider_id: str) -> Provider:
        """
        Return the provider *provider_id*, its variables not filled in.

        Raises:
            ProviderUnknown: there is none; carries the nearest id.
        """
        if provider_id in self:
            return self[provider_id]
        near = get_close_matches(provider_id[:60], self._files, n=1, cutoff=0.6)
        raise ProviderUnknown(near[0] if near else "")


@functools.cache
def catalogue() -> Catalogue:
    """Return the catalogue that this release ships."""
    return Catalogue(resources.files(__package__))


@functools.lru_cache(maxsize=1024)  # as many connections as stay quick; each is a few hundred bytes
def resolve(provider_id: str, variables: tuple[tuple[str, str], ...] = ()) -> Provider:
    """
    Return the provider *provider_id* with *variables* (name and value) filled in.

    Raises:
        ProviderUnknown: there is none; carries the nearest id.
        VariableInvalid: a variable is missing, unknown or wrong.
    """
    return catalogue().find(provider_id).with_variables(dict(variables))
