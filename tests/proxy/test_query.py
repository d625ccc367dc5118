"""Which parameters of a query cross the gateway."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import CredentialNotPassed, FieldNotPassed, JsonpNotAllowed, Refusal
from gateway.models import Injection, Origin, Route, UpstreamRules
from gateway.proxy.query import MEMO_CHARS, MEMO_NAMES, QueryRules, folded, with_param, without_param

KNOWN = UpstreamRules(credential_params=frozenset({"key", "$httpHeaders", "private_token"}))


def rules(**more: object) -> QueryRules:
    route = Route("api", "/api", Origin("https", "api.example.com", 443), "c", **more)  # type: ignore[arg-type]  # rows
    return QueryRules(route, KNOWN)


CROSSES = (
    "a=b",
    "a=1&a=2&&=",
    "q=%zz%2",
    "q=access_token",
    "q=access_token%3Dx",
    "keys=1&monkey=2&key2=3",
    "my_method=x&method=DELETE",
    "token=x",
    "q=a;b\\c//d",
    "filter[key]=1",
    "%",
    "=key",
    "q=callback&callback_url=https://a.example&oauth_callback=x&jsonpath=$",
)


@pytest.mark.parametrize("query", CROSSES)
def test_parameter_crosses_as_it_came(query: str) -> None:
    """
    What is neither a credential nor a method override is sent on, byte for byte.
    """
    assert (query, None) == rules().read(query, "GET")


CREDENTIALS = {
    "RFC 6750's own": "access_token=x",
    "behind another": "a=b&access_token=x",
    "without a value": "access_token",
    "with an empty value": "access_token=",
    "behind a semicolon": "a=b;access_token=x",
    "encoded": "access%5Ftoken=x",
    "encoded in lower case": "%61ccess%5ftoken=x",
    "encoded twice": "access%255Ftoken=x",
    "in another letter case": "Access_Token=x",
    "with a dot, which PHP folds": "access.token=x",
    "with a space, which PHP folds": "access+token=x",
    "with a space before it": "%20access_token=x",
    "as an array": "access_token[]=x",
    "as an encoded array": "access_token%5B0%5D=x",
    "cut by NUL": "access_token%00x=y",
    "of this API": "key=x",
    "of this API, encoded": "k%65y=x",
    "of this API, with a dollar": "$httpHeaders=Authorization:x",
    "of this API, with an encoded dollar": "%24httpHeaders=Authorization:x",
}


@pytest.mark.parametrize("case", CREDENTIALS)
def test_credential_for_the_api_is_refused(case: str) -> None:
    """
    A parameter that some server would read as a credential is refused, however it is spelled.
    """
    with pytest.raises(CredentialNotPassed):
        rules().read(CREDENTIALS[case], "GET")


JSONP = (
    "callback=steal",
    "callback",
    "a=b&$callback=steal",
    "a=b;jsonp=steal",
    "%24callback=steal",
    "c%61llback=steal",
    "CallBack=steal",
    "callback[]=steal",
    "callback=https://a.example/done",  # an API that does not look at it writes this as well
)


@pytest.mark.parametrize("query", JSONP)
def test_get_that_asks_for_a_script_is_refused(query: str) -> None:
    """
    A GET with a JSONP parameter is refused, unless the route lets it pass; by other methods no page loads a script.
    """
    with pytest.raises(JsonpNotAllowed):
        rules().read(query, "GET")
    crossed = {rules().read(query, method) for method in ("HEAD", "POST", "PUT")}

    assert {(query, None)} == crossed | {rules(jsonp="pass").read(query, "GET")}


OVERRIDES = (
    "_method=DELETE",
    "a=b&_method=delete",
    "$httpMethod=DELETE",
    "%24httpmethod=DELETE",
    "X-HTTP-Method-Override=PUT",
    "x-http-method=PUT",
    "x-method-override=PUT",
    "_HttpMethod=PATCH",
)


@pytest.mark.parametrize("query", OVERRIDES)
def test_method_override_is_refused(query: str) -> None:
    """
    A parameter that names another method is refused, unless the route judges it.
    """
    with pytest.raises(FieldNotPassed):
        rules().read(query, "GET")


JUDGED: dict[str, tuple[str, str | None]] = {
    "a method": ("a=b&_method=DELETE", "DELETE"),
    "the method of a search": ("$httpMethod=GET", "GET"),
    "none": ("a=b", None),
}


@pytest.mark.parametrize("case", JUDGED)
def test_judged_override_is_named_and_crosses(case: str) -> None:
    """
    Where the route judges overrides, the query crosses whole, and its method is told.
    """
    query, method = JUDGED[case]

    assert (query, method) == rules(method_override="judge").read(query, "POST")


UNCLEAR = (
    "_method=delete",
    "_method=TRACE",
    "_method=HEAD",
    "_method=PURGE",
    "_method=",
    "_method",
    "_method=%44ELETE",
    "_method=GET&_method=DELETE",
    "_method=GET&$httpMethod=GET",
)


@pytest.mark.parametrize("query", UNCLEAR)
def test_unclear_override_is_refused_where_it_is_judged(query: str) -> None:
    """
    Only one override, of a method that passes, spelled as it is, can be judged.
    """
    with pytest.raises(FieldNotPassed):
        rules(method_override="judge").read(query, "POST")


REMOVED = {
    "alone": ("appid=mine", ""),
    "first": ("appid=mine&a=b", "a=b"),
    "last": ("a=b&appid=mine", "a=b"),
    "twice": ("appid=1&a=b&APPID=2", "a=b"),
    "encoded": ("a=%2F&app%69d=1", "a=%2F"),
    "without a value": ("appid&a", "a"),
    "not there": ("a=b&&c", "a=b&&c"),
}
INJECTING = Injection("query", "appid", "{token}")


@pytest.mark.parametrize("case", REMOVED)
def test_injected_parameter_of_the_callers_is_removed(case: str) -> None:
    """
    What the caller wrote where the token goes is taken out; the rest stays as it came.
    """
    query, kept = REMOVED[case]

    assert (kept, None) == rules(inject=INJECTING).read(query, "GET")


def test_injected_parameter_of_the_callers_is_refused_where_the_route_says_so() -> None:
    """
    Where foreign credentials are refused, or the query can be split in two ways, nothing is taken out.
    """
    for query in ("appid=mine", "a=b&app%69d"):
        with pytest.raises(CredentialNotPassed):
            rules(inject=INJECTING, foreign_credentials="refuse").read(query, "GET")
    with pytest.raises(CredentialNotPassed):
        rules(inject=INJECTING).read("a=b;appid=1", "GET")


def test_memo_of_names_is_bounded() -> None:
    """
    A caller who invents names does not make the gateway remember them all.
    """
    found = rules()
    found.read("y" * (MEMO_CHARS + 1), "GET")
    for number in range(2000):
        found.read(f"x{number}=1", "GET")

    assert 0 < len(found._memo) <= MEMO_NAMES
    assert [] == [name for name in found._memo if len(name) > MEMO_CHARS]
    with pytest.raises(CredentialNotPassed):
        found.read("access_token=1", "GET")


NAMES = st.sampled_from(["access_token", "key", "appid", "_method", "a", "", "q[key]", "ke y", "callback"])
SPELLINGS = st.sampled_from(["plain", "encoded", "twice", "upper"])


def spelled(name: str, how: str) -> str:
    encoded = "".join(f"%{byte:02X}" for byte in name.encode())
    return {"plain": name, "encoded": encoded, "twice": encoded.replace("%", "%25"), "upper": name.upper()}[how]


@given(st.lists(st.tuples(NAMES, SPELLINGS, st.sampled_from(["=x", "=", ""])), max_size=6), st.sampled_from("&;"))
def test_what_crosses_holds_no_credential_in_any_reading(pairs: list[tuple[str, str, str]], mark: str) -> None:
    """
    Whatever crosses: no server that splits and decodes it finds a credential, an override, a callback or the injected
    parameter.
    """
    query = mark.join(spelled(name, how) + value for name, how, value in pairs)
    try:
        sent, _ = rules(inject=INJECTING).read(query, "GET")
    except Refusal:
        return
    for separator in "&;":
        names = {folded(name) for name, _ in parse_qsl(sent, keep_blank_values=True, separator=separator)}
        assert not names & {"access_token", "key", "appid", "_method", "callback"}


TARGETS = {
    "no query": ("/x", "/x?key=t"),
    "an empty query": ("/x?", "/x?key=t"),
    "a query": ("/x?a=b", "/x?a=b&key=t"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_parameter_is_added_at_the_end(case: str) -> None:
    """
    The injected parameter stands last, whatever query there is.
    """
    target, sent = TARGETS[case]

    assert sent == with_param(target, "key", "t")


def test_parameters_value_is_percent_encoded_whole() -> None:
    """
    No character of a value ends it or begins another parameter, and it reads back as it was.
    """
    value = "".join(map(chr, range(0x20, 0x7F)))
    query = with_param("/x", "key", value).partition("?")[2]

    assert [("key", value)] == parse_qsl(query)
    assert not set(query.partition("=")[2]) & set("&;=#+ /?\"'")


REFERENCES = {
    "no query": (b"https://a.example/x", b"https://a.example/x"),
    "the parameter alone": (b"https://a.example/x?key=T", b"https://a.example/x"),
    "among others": (b"/x?a=1&key=T&b=2", b"/x?a=1&b=2"),
    "a query alone": (b"?page=2&key=T", b"?page=2"),
    "before a fragment": (b"/x?key=T#end", b"/x#end"),
    "encoded": (b"/x?k%65y=T&a", b"/x?a"),
    "in another letter case": (b"/x?KEY=T", b"/x"),
    "behind a semicolon": (b"/x?a=1;key=T&b=2", b"/x?b=2"),
    "an empty query": (b"/x?", b"/x?"),
    "bytes that are no text": (b"/\xff?key=T&\xfe", b"/\xff?\xfe"),
}


@pytest.mark.parametrize("case", REFERENCES)
def test_reference_loses_the_parameter(case: str) -> None:
    """
    A reference is the same without the parameter, however that is spelled.
    """
    reference, kept = REFERENCES[case]

    assert kept == without_param(reference, "key")
