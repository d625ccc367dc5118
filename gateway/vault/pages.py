"""
The pages of connecting, as requests and answers: what a person sees, and what a browser is told.

Rules (threats.md J1, J2, J5, J9, E7; RFC 9700 sections 4.2, 4.11, 4.12):
1. Pages hold no script and load nothing: the style is inline and named in the policy by its hash. Nothing is stored,
   framed, sniffed, or told in a Referer.
2. A browser is known by one random cookie: host-only, HttpOnly, SameSite=Lax (the way back from the provider is a
   cross-site navigation). Over https it has the prefix `__Host-`; over plain http, which is for this machine, it cannot
   have it: browsers keep no Secure cookie there.
3. What changes something is a POST with a token derived from the cookie and the page, from our own origin.
4. What comes from the provider is answered with 303 to an address without code and state. No query is ever shown.
5. A preview of the link (a chat's, a prefetch) shows the page and takes nothing: only a navigation makes it its own.
6. Requests under way are bounded, and so are those that wait for an outcome.

`connect.py` decides; here is nothing that could be decided differently.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import orjson
import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.models import PageAnswer, PageRequest
from gateway.vault.attempts import Attempt, ConnectStopped, Status, new_secret
from gateway.vault.authorization import SECRET
from gateway.vault.connect import Connecting, View
from gateway.vault.links import CALLBACK_PATH, CONNECT_PATH
from gateway.vault.page_texts import ask_page, confirm_page, css_hash, done_page, stopped_page, stopped_status
from gateway.vault.sealing import SealBroken

COOKIE = "gateway-connect"
COOKIE_SECONDS = 1800  # a link until consent, the provider, a confirmation: ten minutes each
MAX_UNDER_WAY = 64
MAX_WAITING = 200
WAIT_SECONDS = 25.0  # below the 30 s after which the most impatient proxies give up
POLL_SECONDS = 1.0
ATTEMPT_ID = re.compile(r"[0-9a-f]{32}\Z")
FORM = "application/x-www-form-urlencoded"
TOLD: Mapping[Status, str] = {
    "connected": "connected",
    "refused": "refused",
    "failed": "refused",
    "expired": "expired",
}  # everything else is pending

log = structlog.get_logger()


class Browser(NamedTuple):
    """The browser of a request: its secret, and whether it brought it."""

    secret: str
    is_known: bool


class Pages:
    """Answers what is below `/connect/`, and the callback."""

    def __init__(
        self,
        connecting: Connecting,
        *,
        base_url: Callable[[], str],
        random_bytes: Callable[[int], bytes],
        wait_seconds: float = WAIT_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._connecting = connecting
        self._base_url = base_url
        self._random_bytes = random_bytes
        self._wait_seconds = wait_seconds
        self._poll_seconds = poll_seconds
        self._under_way = 0
        self._waiting = 0

    @staticmethod
    def takes(path: str) -> bool:
        """Tell whether *path* (without query) is one of these pages."""
        return path == CALLBACK_PATH or path.startswith(CONNECT_PATH)

    async def answer(self, page: PageRequest) -> PageAnswer:
        """Return the answer to *page*. Raises nothing: what fails is a page, too."""
        handle, allowed = self._handler(page)
        if handle is None:
            return self._stopped("not_found")
        if page.method not in allowed:
            return self._html(stopped_page("not_found"), status=405, more=(("Allow", ", ".join(allowed)),))
        if self._under_way >= MAX_UNDER_WAY + self._waiting:
            return self._stopped("busy")
        self._under_way += 1
        try:
            return await handle()
        except ConnectStopped as exc:
            return self._stopped(exc.reason)
        except (SQLAlchemyError, OSError) as exc:
            log.critical("connect_database_failed", error=type(exc).__name__)
            return self._stopped("unavailable")
        except SealBroken as exc:
            log.critical("seal_broken", reason=str(exc))
            return self._stopped("broken")
        except Exception as exc:  # what we did not think of is a page as well, and tells nothing
            log.critical("connect_page_broke", error=type(exc).__name__)
            return self._stopped("broken")
        finally:
            self._under_way -= 1

    def _handler(self, page: PageRequest) -> tuple[Callable[[], Awaitable[PageAnswer]] | None, tuple[str, ...]]:
        """Return what answers the path of *page*, and the methods it takes."""
        browser = self._browser(page)
        if page.path == CALLBACK_PATH:
            return lambda: self._callback(page, browser), ("GET",)
        first, _, second = page.path.removeprefix(CONNECT_PATH).partition("/")
        if first == "stopped" and stopped_status(second) is not None:
            return lambda: self._tell(second), ("GET", "HEAD")
        if first == "done" and ATTEMPT_ID.match(second):
            return lambda: self._done(second, browser), ("GET", "HEAD")
        if first == "confirm" and ATTEMPT_ID.match(second):
            return lambda: self._confirm(page, second, browser), ("GET", "HEAD", "POST")
        if SECRET.match(first) and second == "wait":
            return lambda: self._wait(first), ("GET",)
        if SECRET.match(first) and not second and not page.path.endswith("/"):
            return lambda: self._link(page, first, browser), ("GET", "HEAD", "POST")
        return None, ()

    # --- the pages -------------------------------------------------------------------------------------------------

    async def _link(self, page: PageRequest, secret: str, browser: Browser) -> PageAnswer:
        if page.method == "POST":
            return await self._answered(page, secret, browser)
        try:
            view = await self._connecting.open(secret, browser=browser.secret, binds=_is_navigation(page))
        except ConnectStopped as exc:
            # A reload, or a way back: the browser that the attempt belongs to is shown how it stands.
            if exc.attempt is not None and exc.attempt.browser_digest and exc.reason == "link_used":
                return self._see_other(_place_of(exc.attempt))
            raise
        return self._ask(page, secret, view_browser=browser, problem="", view=view)

    def _ask(
        self, page: PageRequest, secret: str, *, view_browser: Browser, problem: str, view: View, status: int = 200
    ) -> PageAnswer:
        shown = ask_page(view, action=page.path, csrf=_csrf(view_browser.secret, page.path), problem=problem)
        return self._html(shown.html, status=status, browser=view_browser, leads_to=shown.leads_to)

    async def _answered(self, page: PageRequest, secret: str, browser: Browser) -> PageAnswer:
        form = self._form(page, browser)
        if form.get("answer") == "no":
            attempt = await self._connecting.refuse(secret, browser=browser.secret)
            return self._see_other(_place_of(attempt))
        if form.get("answer") != "yes":
            raise ConnectStopped("form_refused")
        view = await self._connecting.open(secret, browser=browser.secret, binds=True)
        if view.connection.kind != "apikey":
            return self._see_other(await self._connecting.consent(secret, browser=browser.secret))
        try:
            attempt = await self._connecting.take_api_key(
                secret, browser=browser.secret, api_key=form.get("api_key", "").strip()
            )
        except ConnectStopped as exc:
            if exc.reason != "api_key_invalid":
                raise
            problem = "This does not look like an API key. Copy it again, without spaces and line breaks."
            return self._ask(page, secret, view_browser=browser, problem=problem, view=view, status=400)
        return self._see_other(_place_of(attempt))

    async def _callback(self, page: PageRequest, browser: Browser) -> PageAnswer:
        """Rule 4: whatever came, the browser leaves this address."""
        try:
            attempt = await self._connecting.finish(page.query, browser=browser.secret)
        except ConnectStopped as exc:
            return self._see_other(f"{CONNECT_PATH}stopped/{exc.reason}")
        return self._see_other(_place_of(attempt))

    async def _confirm(self, page: PageRequest, attempt_id: str, browser: Browser) -> PageAnswer:
        if page.method == "POST":
            form = self._form(page, browser)
            if form.get("answer") not in ("yes", "no"):
                raise ConnectStopped("form_refused")
            says_yes = form["answer"] == "yes"
            attempt = await self._connecting.confirm(attempt_id, browser=browser.secret, says_yes=says_yes)
            return self._see_other(_place_of(attempt))
        view = await self._connecting.seen(attempt_id, browser=browser.secret)
        if view.attempt.status != "confirming":
            return self._see_other(_place_of(view.attempt))
        shown = confirm_page(view, action=page.path, csrf=_csrf(browser.secret, page.path))
        return self._html(shown.html, browser=browser, leads_to=shown.leads_to)

    async def _done(self, attempt_id: str, browser: Browser) -> PageAnswer:
        view = await self._connecting.seen(attempt_id, browser=browser.secret)
        if view.attempt.status == "confirming":
            return self._see_other(_place_of(view.attempt))
        return self._html(done_page(view))

    async def _tell(self, reason: str) -> PageAnswer:
        return self._stopped(reason)

    async def _wait(self, secret: str) -> PageAnswer:
        """Answer once the attempt is over, or after the wait: for agents that were told `connection_required`."""
        if self._waiting >= MAX_WAITING:
            return _json(503, {"status": "pending"}, (("Retry-After", "5"),))
        self._waiting += 1
        try:
            for _ in range(max(1, round(self._wait_seconds / self._poll_seconds))):
                status = await self._connecting.links.status_of_link(secret)
                if status in TOLD:
                    return _json(200, {"status": TOLD[status]})
                await asyncio.sleep(self._poll_seconds)
        finally:
            self._waiting -= 1
        return _json(200, {"status": "pending"})

    # --- browsers --------------------------------------------------------------------------------------------------

    @property
    def _is_https(self) -> bool:
        return self._base_url().startswith("https://")

    @property
    def _cookie(self) -> str:
        return f"__Host-{COOKIE}" if self._is_https else COOKIE

    def _browser(self, page: PageRequest) -> Browser:
        pairs = (pair.strip().partition("=") for pair in page.headers.get("cookie", "").split(";"))
        found = [value for name, _, value in pairs if name == self._cookie]
        if len(found) == 1 and SECRET.match(found[0]):
            return Browser(found[0], is_known=True)
        return Browser(new_secret(self._random_bytes), is_known=False)

    def _form(self, page: PageRequest, browser: Browser) -> dict[str, str]:
        """
        Return the fields of a form of ours.

        Raises:
            ConnectStopped: it is none: rule 3.
        """
        # With "no-referrer", browsers send "null" as the Origin of a form of our own; an older one sends nothing.
        origin, site = page.headers.get("origin", "null"), page.headers.get("sec-fetch-site", "same-origin")
        if origin not in ("null", _origin(self._base_url())) or site not in ("same-origin", "none"):
            raise ConnectStopped("form_refused")
        if not browser.is_known or page.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            raise ConnectStopped("form_refused")
        try:
            pairs = parse_qsl(page.body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
        except ValueError:
            raise ConnectStopped("form_refused") from None
        form = dict(pairs)
        if len(form) != len(pairs) or not hmac.compare_digest(
            form.get("csrf", "").encode(), _csrf(browser.secret, page.path).encode()
        ):
            raise ConnectStopped("form_refused")
        return form

    # --- answers ---------------------------------------------------------------------------------------------------

    def _stopped(self, reason: str) -> PageAnswer:
        more = (("Retry-After", "5"),) if stopped_status(reason) == 503 else ()
        return self._html(stopped_page(reason), status=stopped_status(reason) or 400, more=more)

    def _see_other(self, target: str) -> PageAnswer:
        return PageAnswer(303, (("Location", target), *_FIXED, _policy(())), b"")

    def _html(
        self,
        html: str,
        *,
        status: int = 200,
        browser: Browser | None = None,
        leads_to: tuple[str, ...] = (),
        more: tuple[tuple[str, str], ...] = (),
    ) -> PageAnswer:
        headers = [("Content-Type", "text/html; charset=utf-8"), *_FIXED, _policy(leads_to), *more]
        if browser is not None and not browser.is_known:
            secure = "; Secure" if self._is_https else ""
            cookie = f"{self._cookie}={browser.secret}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax"
            headers.append(("Set-Cookie", cookie + secure))
        return PageAnswer(status, tuple(headers), html.encode())


_FIXED = (
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("X-Robots-Tag", "noindex"),
)


def _policy(leads_to: tuple[str, ...]) -> tuple[str, str]:
    """Return the Content-Security-Policy. *leads_to*: where a form's answer may lead on, as sources."""
    # Browsers hold form-action against every redirect that follows a form (Chrome does, CSP 3 leaves it open), so the
    # provider's own hops must pass as well: any https, and plain http only by origin.
    form = " ".join(("'self'", *leads_to))
    return (
        "Content-Security-Policy",
        f"default-src 'none'; style-src '{css_hash()}'; form-action {form}; base-uri 'none'; frame-ancestors 'none'",
    )


def _json(status: int, content: Mapping[str, str], more: tuple[tuple[str, str], ...] = ()) -> PageAnswer:
    return PageAnswer(status, (("Content-Type", "application/json"), *_FIXED, *more), orjson.dumps(content))


def _place_of(attempt: Attempt) -> str:
    """Return where the browser is sent to see how *attempt* stands: our page, or on success where the app wanted it."""
    if attempt.status == "confirming":
        return f"{CONNECT_PATH}confirm/{attempt.id}"
    if attempt.status == "connected" and attempt.redirect_url:
        return attempt.redirect_url
    return f"{CONNECT_PATH}done/{attempt.id}"


def _is_navigation(page: PageRequest) -> bool:
    """Tell whether a person is looking: a browser that opens the page itself, and does not fetch it ahead (rule 5)."""
    if page.method != "GET" or "prefetch" in page.headers.get("sec-purpose", page.headers.get("purpose", "")):
        return False
    return page.headers.get("sec-fetch-mode") == "navigate"


def _csrf(browser: str, path: str) -> str:
    digest = hmac.digest(browser.encode(), b"connect form\0" + path.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
