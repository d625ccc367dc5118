"""
What the pages of connecting say. Templates in `page_templates/`, every sentence about an outcome in two tables here.

Rules:
1. Everything is escaped: users, connections and scopes are text of strangers.
2. A person is told what happened and what to do next, never what the provider wrote; one word of ours is for whoever
   helps them.
3. Every page that asks names for whom the grant is kept (threats.md J2).
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gateway.vault.connect import View

SELF_EVIDENT = frozenset({"openid", "profile", "email", "offline_access"})  # providers answer these in other words
AGAIN = "Ask for a new link and try again."


class Outcome(NamedTuple):
    """What a page tells: a title, a sentence, good, bad or note, and what to do."""

    title: str
    text: str
    tone: str
    hint: str = "You can close this page."


class Shown(NamedTuple):
    """A page, and where its form may lead (sources of a Content-Security-Policy)."""

    html: str
    leads_to: tuple[str, ...]


# How an attempt ended: by its error, else by its status.
OUTCOMES: dict[str, Outcome] = {
    "connected": Outcome("Connected", "Everything is set. You can go back to what you were doing.", "good"),
    "refused_by_user": Outcome("Nothing was connected", "You cancelled. No access was given.", "note"),
    "access_denied": Outcome(
        "Nothing was connected", "Access was declined at the provider, so no access was given.", "note", AGAIN
    ),
    "other_account_refused": Outcome(
        "The old account stays", "The account that you chose just now was not connected; its access was given back.",
        "note",
    ),
    "expired": Outcome("This took too long", "The time for connecting is over. Nothing was connected.", "bad", AGAIN),
    "issuer_mismatch": Outcome(
        "The answer did not come from the right place",
        "Another service answered than the one that was asked. To be safe, nothing was connected.",
        "bad", "Tell the gateway's operator.",
    ),
    "id_token_mismatch": Outcome(
        "The answer did not match",
        "What the provider answered was meant for somebody else. To be safe, nothing was connected.",
        "bad", "Tell the gateway's operator.",
    ),
    "invalid_scope": Outcome(
        "The provider does not know these permissions",
        "The provider refused the permissions that were asked for. Nothing was connected.",
        "bad", "Tell the gateway's operator.",
    ),
    "invalid_client": Outcome(
        "The provider does not know this gateway",
        "The gateway is not set up correctly at the provider. Nothing was connected.",
        "bad", "Tell the gateway's operator.",
    ),
    "unauthorized_client": Outcome(
        "The provider does not know this gateway",
        "The gateway is not set up correctly at the provider. Nothing was connected.",
        "bad", "Tell the gateway's operator.",
    ),
    "not_stored": Outcome(
        "The gateway could not keep the access",
        "The gateway's database failed. Nothing was connected.",
        "bad", "Ask for a new link and try again; if it stays like this, tell the gateway's operator.",
    ),
    "refused": Outcome("Nothing was connected", "No access was given.", "note", AGAIN),
    "failed": Outcome(
        "It did not work", "The provider could not complete the request. Nothing was connected.", "bad", AGAIN
    ),
    "working": Outcome("One moment", "The account is being connected. Reload this page in a few seconds.", "note"),
}  # fmt: skip

# Why a step was not taken, with the status of its page.
STOPPED: dict[str, tuple[int, Outcome]] = {
    "not_found": (404, Outcome("There is nothing here", "This address belongs to no page of this gateway.", "note")),
    "link_unknown": (404, Outcome("This link does not work", "It is incomplete, or too old.", "bad", AGAIN)),
    "link_expired": (410, Outcome("This link has expired", "Links work for ten minutes.", "note", AGAIN)),
    "link_used": (410, Outcome("This link was used already", "Each link works once.", "note", AGAIN)),
    "other_browser": (
        403,
        Outcome(
            "This link belongs to another browser",
            "It was opened in another browser first, or your browser refused our cookie. "
            "Nothing was connected from here.",
            "bad", AGAIN,
        ),
    ),
    "state_unknown": (
        400, Outcome("We did not expect this answer", "It belongs to nothing that was asked here.", "bad", AGAIN)
    ),
    "state_used": (400, Outcome("This answer was used already", "Each answer counts once.", "note", AGAIN)),
    "answer_malformed": (
        400, Outcome("The provider's answer is incomplete", "Nothing was connected.", "bad", AGAIN)
    ),
    "form_refused": (
        403,
        Outcome(
            "This form cannot be taken", "It did not come from our page in this browser, or cookies are turned off.",
            "bad", "Open the link again.",
        ),
    ),
    "provider_unavailable": (
        502,
        Outcome(
            "The provider cannot be used at the moment", "Nothing was asked of it, and nothing was connected.",
            "bad", "Try again in a few minutes; if it stays like this, tell the gateway's operator.",
        ),
    ),
    "connection_gone": (
        410,
        Outcome(
            "This connection was removed", "Somebody deleted it meanwhile, so nothing was connected.",
            "bad", "Tell the gateway's operator.",
        ),
    ),
    "api_key_invalid": (400, Outcome("This is no API key", "Nothing was stored.", "bad", AGAIN)),
    "busy": (503, Outcome("Too much at once", "The gateway cannot do this at the moment.", "note", "Try again soon.")),
    "unavailable": (
        503,
        Outcome(
            "The gateway cannot tell at the moment", "Its database does not answer.", "note",
            "Reload this page in a few seconds.",
        ),
    ),
    "broken": (
        500, Outcome("Something is wrong here", "Nothing was connected.", "bad", "Tell the gateway's operator.")
    ),
}  # fmt: skip
SIGNS = {"good": "\u2713", "bad": "!", "note": "i"}


def ask_page(view: View, *, action: str, csrf: str, problem: str) -> Shown:
    """Return the page that asks for consent, or for an API key."""
    attempt, connection = view.attempt, view.connection
    beneficiary = _beneficiary(view)
    html = _render(
        "ask.html",
        **_facts(view, scopes=None if connection.kind == "apikey" else attempt.scopes, label="It may"),
        initial=connection.name.strip()[:1].upper(),
        asks_key=connection.kind == "apikey",
        beneficiary=beneficiary,
        check=f"{attempt.granted_by or beneficiary} is you",
        action=action,
        csrf=csrf,
        problem=problem,
    )
    return Shown(html, _sources(view.authorization_url, attempt.redirect_url))


def confirm_page(view: View, *, action: str, csrf: str) -> Shown:
    """Return the page that asks about another account."""
    html = _render(
        "confirm.html",
        **_facts(view, scopes=view.attempt.scopes, label="It may"),
        beneficiary=_beneficiary(view),
        action=action,
        csrf=csrf,
    )
    return Shown(html, _sources(view.attempt.redirect_url))


def done_page(view: View) -> str:
    """Return the page that tells how the attempt of *view* stands."""
    attempt = view.attempt
    outcome = OUTCOMES.get(attempt.error) or OUTCOMES.get(attempt.status) or OUTCOMES["working"]
    is_connected = attempt.status == "connected"
    missing = sorted(set(attempt.scopes) - set(view.granted) - SELF_EVIDENT) if is_connected and view.granted else []
    return _render(
        "done.html",
        **_facts(view, scopes=view.granted if is_connected else None, label="Granted"),
        **_told(outcome),
        missing=missing,
        word=attempt.error if attempt.status == "failed" else "",
        back=attempt.redirect_url,
        back_host=urlsplit(attempt.redirect_url).netloc,
    )


def stopped_page(reason: str) -> str:
    """Return the page for a step that was not taken."""
    _, outcome = STOPPED.get(reason) or STOPPED["broken"]
    return _render("done.html", **_told(outcome), name="", missing=[], word="", back="", back_host="")


def stopped_status(reason: str) -> int | None:
    """Return the status of the page for *reason*; None where there is no such page."""
    return STOPPED[reason][0] if reason in STOPPED else None


@lru_cache(maxsize=1)
def css_hash() -> str:
    """Return the inline style's source expression."""
    return f"sha256-{base64.b64encode(hashlib.sha256(_css().encode()).digest()).decode()}"


def _facts(view: View, *, scopes: tuple[str, ...] | None, label: str) -> dict[str, object]:
    attempt, connection = view.attempt, view.connection
    asked = attempt.granted_by if attempt.granted_by != attempt.user else ""
    return {
        "name": connection.name,
        "provider": urlsplit(view.authorization_url).hostname or "",
        "owner": {"user": attempt.user, "tenant": attempt.tenant, "account": attempt.account, "asked": asked},
        "scopes": scopes,
        "scopes_label": label,
    }


def _told(outcome: Outcome) -> dict[str, object]:
    return {**outcome._asdict(), "sign": SIGNS[outcome.tone]}


def _beneficiary(view: View) -> str:
    attempt = view.attempt
    if not attempt.user:
        return f"everyone in {attempt.tenant}"
    return f"{attempt.user} in {attempt.tenant}" if attempt.tenant else attempt.user


def _sources(*urls: str) -> tuple[str, ...]:
    """Return where a form may lead: any https, and the origins of those *urls* that are plain http."""
    parts = [urlsplit(url) for url in urls if url.startswith("http://")]
    return ("https:", *dict.fromkeys(f"http://{part.netloc}" for part in parts))


def _render(template: str, **values: object) -> str:
    return _environment().get_template(template).render(css=Markup(_css()), **values)  # noqa: S704  # a file of ours


@lru_cache(maxsize=1)
def _environment() -> Environment:
    loader = PackageLoader("gateway.vault", "page_templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, auto_reload=False)


@lru_cache(maxsize=1)
def _css() -> str:
    return (files("gateway.vault") / "page_templates" / "page.css").read_text("utf-8")
