"""Raw requests whose framing is odd: Content-Length, Transfer-Encoding and the chunked coding (threats A1 to A4)."""

from __future__ import annotations

from tests.proxy.raw_requests import CREDENTIAL, Row, head, passed, post, refused

INNER = b"GET /api/inner HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer " + CREDENTIAL + b"\r\n\r\n"
END = b"0\r\n\r\n"


def length(value: bytes) -> Row:
    """Return the row of a Content-Length that is refused; what stands behind would be five bytes, or a request."""
    return refused(post(b"Content-Length: " + value, body=b"hello" + INNER))


def coding(*fields: bytes) -> Row:
    """Return the row of Transfer-Encoding fields that are refused; what stands behind is no body and a request."""
    return refused(post(*fields, body=END + INNER))


def chunks(body: bytes, expected: bytes | None = None) -> Row:
    """Return the row of a chunked body: refused, or passed as *expected*."""
    data = post(b"Transfer-Encoding: chunked", body=body)
    return refused(data + INNER) if expected is None else passed(data, expected)


CONTENT_LENGTH: dict[str, Row] = {
    "a length": passed(post(b"Content-Length: 5", body=b"hello"), b"hello"),
    "a length of nothing": passed(post(b"Content-Length: 0")),
    "no length": passed(post()),
    "a length beside GET": passed(head(b"Content-Length: 5") + b"hello", b"hello"),
    "a body that is a request": passed(post(b"Content-Length: %d" % len(INNER), body=INNER), b"%INNER%"),
    "blanks around it": passed(post(b"Content-Length: \t5 \t", body=b"hello"), b"hello"),
    "a name in capitals": passed(post(b"CONTENT-LENGTH: 5", body=b"hello"), b"hello"),
    "a leading zero": passed(post(b"Content-Length: 05", body=b"hello"), b"hello"),
    "an empty one": length(b""),
    "a plus": length(b"+5"),
    "a minus": length(b"-5"),
    "minus nothing": length(b"-0"),
    "a fraction": length(b"5.0"),
    "an exponent": length(b"5e0"),
    "hexadecimal": length(b"0x5"),
    "hexadecimal without a prefix": length(b"a"),
    "octal": length(b"0o5"),
    "binary": length(b"0b101"),
    "an underscore": length(b"1_0"),
    "a comma": length(b"1,000"),
    "a semicolon": length(b"5;"),
    "quotes": length(b'"5"'),
    "two numbers": length(b"5 5"),
    "a tab within": length(b"5\t5"),
    "a list of one": length(b"5,"),
    "a list before": length(b",5"),
    "a list of equals": length(b"5, 5"),
    "a list of two": length(b"5, 6"),
    "words": length(b"five"),
    "infinity": length(b"inf"),
    "NaN": length(b"NaN"),
    "null": length(b"null"),
    "brackets": length(b"[5]"),
    "a VT before": length(b"\x0b5"),
    "a VT behind": length(b"5\x0b"),
    "an FF behind": length(b"5\x0c"),
    "a no-break space behind": length(b"5\xa0"),
    "NUL behind": length(b"5\x00"),
    "CR behind": length(b"5\r"),
    "digits of another script": length("٥".encode()),  # noqa: RUF001  # that is the point
    "full-width digits": length("５".encode()),  # noqa: RUF001
    "a superscript": length("⁵".encode()),
    "2^63": length(b"9223372036854775808"),
    "2^64": length(b"18446744073709551616"),
    "2^64 and 5": length(b"18446744073709551621"),
    "5000 digits": length(b"5" * 5000),
    "5000 zeros before": length(b"0" * 5000 + b"5"),
    "more than the route takes": Row(post(b"Content-Length: 9223372036854775807", body=b"hello"), ("body_too_large",)),
    "it twice": refused(post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello" + INNER)),
    "it twice, different": refused(post(b"Content-Length: 5", b"Content-Length: 0", body=b"hello" + INNER)),
    "it twice, in other letters": refused(post(b"Content-Length: 5", b"content-length: 5", body=b"hello" + INNER)),
    "a blank before the colon": refused(post(b"Content-Length : 5", body=b"hello" + INNER)),
    "a fold": refused(post(b"Content-Length:\r\n 5", body=b"hello" + INNER)),
    "an underscore for the hyphen": refused(post(b"Content_Length: 5", body=b"hello" + INNER)),
    "named in Connection": refused(post(b"Content-Length: 5", b"Connection: Content-Length", body=b"hello" + INNER)),
}

TRANSFER_ENCODING: dict[str, Row] = {
    "chunked": passed(post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
    "chunked in capitals": passed(post(b"Transfer-Encoding: CHUNKED", body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
    "no blank": passed(post(b"Transfer-Encoding:chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
    "with a length": coding(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "with a length before it": coding(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "with a length of nothing": coding(b"Transfer-Encoding: chunked", b"Content-Length: 0"),
    "twice": coding(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "twice, the second another": coding(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    "twice, the first another": coding(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
    "twice in one": coding(b"Transfer-Encoding: chunked, chunked"),
    "empty": coding(b"Transfer-Encoding:"),
    "a blank": coding(b"Transfer-Encoding: "),
    "a comma": coding(b"Transfer-Encoding: ,"),
    "a comma before": coding(b"Transfer-Encoding: ,chunked"),
    "a comma behind": coding(b"Transfer-Encoding: chunked,"),
    "a semicolon": coding(b"Transfer-Encoding: chunked;"),
    "a parameter": coding(b"Transfer-Encoding: chunked;q=1"),
    "identity": coding(b"Transfer-Encoding: identity"),
    "identity, chunked": coding(b"Transfer-Encoding: identity, chunked"),
    "chunked, identity": coding(b"Transfer-Encoding: chunked, identity"),
    "gzip": coding(b"Transfer-Encoding: gzip"),
    "gzip, chunked": coding(b"Transfer-Encoding: gzip, chunked"),
    "a coding nobody knows": coding(b"Transfer-Encoding: cow"),
    "a letter before": coding(b"Transfer-Encoding: xchunked"),
    "a letter behind": coding(b"Transfer-Encoding: chunkedx"),
    "in quotes": coding(b'Transfer-Encoding: "chunked"'),
    "in single quotes": coding(b"Transfer-Encoding: 'chunked'"),
    "a VT before": coding(b"Transfer-Encoding: \x0bchunked"),
    "a VT behind": coding(b"Transfer-Encoding: chunked\x0b"),
    "a no-break space before": coding(b"Transfer-Encoding: \xa0chunked"),
    "a no-break space in UTF-8": coding(b"Transfer-Encoding: \xc2\xa0chunked"),
    "NUL behind": coding(b"Transfer-Encoding: chunked\x00"),
    "a Kelvin sign": coding("Transfer-Encoding: chun\u212aed".encode()),
    "a fold": coding(b"Transfer-Encoding:\r\n chunked"),
    "a fold within": coding(b"Transfer-Encoding: chu\r\n nked"),
    "a blank before the colon": coding(b"Transfer-Encoding : chunked"),
    "a bare LF before": coding(b"X: y\nTransfer-Encoding: chunked"),
    "a bare CR before": coding(b"X: y\rTransfer-Encoding: chunked"),
    "an underscore for the hyphen": coding(b"Transfer_Encoding: chunked"),
    "named in Connection": coding(b"Transfer-Encoding: chunked", b"Connection: Transfer-Encoding"),
    "in HTTP/1.0": refused(
        head(b"Transfer-Encoding: chunked", line=b"POST /api/x HTTP/1.0") + b"5\r\nhello\r\n0\r\n\r\n"
    ),
}

CHUNKED: dict[str, Row] = {
    "two chunks": chunks(b"5\r\nhello\r\n1\r\n!\r\n" + END, b"hello!"),
    "no chunk": chunks(END, b""),
    "zeros before a size": chunks(b"0005\r\nhello\r\n0000\r\n\r\n", b"hello"),
    "capitals in a size": chunks(b"A\r\n0123456789\r\n" + END, b"0123456789"),
    "a size of one-byte chunks": chunks(b"1\r\nx\r\n" * 200 + END, b"x" * 200),
    "a chunk that holds an end": chunks(b"5\r\n" + END + b"\r\n" + END, END),
    "a chunk that holds a request": chunks(b"%x\r\n%b\r\n" % (4, b"GET ") + END, b"GET "),
    "an extension": chunks(b"5;a=b\r\nhello\r\n" + END, b"hello"),
    "an extension in quotes": chunks(b'5;a="b;c"\r\nhello\r\n0;d\r\n\r\n', b"hello"),
    "trailers": chunks(b"5\r\nhello\r\n0\r\nX: y\r\nAuthorization: Bearer evil\r\n\r\n", b"hello"),
    "trailers that name framing": chunks(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n", b"hello"),
    "a prefix": chunks(b"0x5\r\nhello\r\n" + END),
    "a plus": chunks(b"+5\r\nhello\r\n" + END),
    "a minus": chunks(b"-5\r\nhello\r\n" + END),
    "an underscore": chunks(b"0_5\r\nhello\r\n" + END),
    "a blank before a size": chunks(b" 5\r\nhello\r\n" + END),
    "a blank behind a size": chunks(b"5 \r\nhello\r\n" + END),
    "a tab behind a size": chunks(b"5\t\r\nhello\r\n" + END),
    "a letter that is no digit": chunks(b"g\r\nhello\r\n" + END),
    "no size": chunks(b"\r\nhello\r\n" + END),
    "an extension without a size": chunks(b";a\r\nhello\r\n" + END),
    "2^63": chunks(b"8000000000000000\r\nhello\r\n" + END),
    "2^64": chunks(b"10000000000000005\r\nhello\r\n" + END),
    "a size of 64 KiB": chunks(b"0" * 65_536 + b"5\r\nhello\r\n" + END),
    "a bare LF behind a size": chunks(b"5\nhello\r\n" + END),
    "a bare CR behind a size": chunks(b"5\rhello\r\n" + END),
    "LF LF for a size's end": chunks(b"5\n\nhello\r\n" + END),
    "LF behind the data": chunks(b"5\r\nhello\n" + END),
    "nothing behind the data": chunks(b"5\r\nhello" + END),
    "more data than said": chunks(b"5\r\nhello!\r\n" + END),
    "less data than said": chunks(b"6\r\nhello\r\n" + END),
    "LF in an extension": chunks(b"5;a\nb\r\nhello\r\n" + END),
    "CR in an extension": chunks(b"5;a\rb\r\nhello\r\n" + END),
    "NUL in an extension": chunks(b"5;a\x00b\r\nhello\r\n" + END),
    "LF in a quoted extension": chunks(b'5;a="\n"\r\nhello\r\n' + END),
    "an extension without a name": chunks(b"5;\r\nhello\r\n" + END),
    "an extension of 64 KiB": chunks(b"5;" + b"a" * 65_536 + b"\r\nhello\r\n" + END),
    "64 KiB of extensions": chunks(b"1;%b\r\nx\r\n" % (b"a" * 200) * 320 + END),
    "a request in the trailers": chunks(b"0\r\n" + INNER),
    "a fold in the trailers": chunks(b"0\r\nX: y\r\n z\r\n\r\n"),
    "a trailer with a bare LF": chunks(b"0\r\nX: y\nZ: z\r\n\r\n"),
    "a trailer without a colon": chunks(b"0\r\nX\r\n\r\n"),
    "LF for the trailers' end": chunks(b"0\r\n\n"),
    "64 KiB of trailers": chunks(b"0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"),
}

BODY_FAMILIES = {
    "Content-Length": CONTENT_LENGTH,
    "Transfer-Encoding": TRANSFER_ENCODING,
    "chunked bodies": CHUNKED,
}
