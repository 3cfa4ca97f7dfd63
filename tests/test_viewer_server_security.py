"""Who may ask the viewer: the checklist of the guard, line by line."""

from __future__ import annotations

import gzip
import hmac

import numpy as np
import pytest

import weighlock
from tests.viewer_client import PORT, TOKEN, viewing
from weighlock.viewer import guarding

OURS = f"127.0.0.1:{PORT}"
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' data:",
    "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'", "trusted-types": "'none'",
}  # fmt: skip


@pytest.fixture
def viewer(tmp_path):
    path = tmp_path / "model.pt"
    weighlock.save({"w": np.arange(6.0)}, path)
    with viewing(path) as found:
        yield found


def bearer(token=TOKEN):
    return {"authorization": f"Bearer {token}"}


def test_the_api_answers_whoever_has_the_token(viewer):
    assert viewer.ask("/api/v1/files", headers=bearer()).status == 200
    assert viewer.ask("/api/v1/files", headers={"authorization": f"bearer {TOKEN}"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(""),
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": f"token={TOKEN}"},
        {"x-token": TOKEN},
        {"authorization": "Bearer \xff\xfe"},
    ],
)
def test_without_the_token_nothing_is_said(viewer, headers):
    for path in ("/api/v1/files", "/api/v1/ping", "/api/v1/file/0/tensor/0/export.npy", "/api/v1/nothing"):
        answer = viewer.ask(path, headers=headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert b"model" not in answer.body


def test_a_token_in_the_address_is_not_taken(viewer):
    assert viewer.ask("/api/v1/files", f"token={TOKEN}").status == 401


def test_two_tokens_are_none(viewer):
    raw = [(b"host", OURS.encode()), *([(b"authorization", f"Bearer {TOKEN}".encode())] * 2)]
    assert viewer.ask("/api/v1/files", raw=raw).status == 401


def test_tokens_are_compared_in_constant_time(viewer, monkeypatch):
    compared = []

    class Counting:
        @staticmethod
        def compare_digest(a, b):
            compared.append((a, b))
            return hmac.compare_digest(a, b)

    monkeypatch.setattr(guarding, "hmac", Counting)
    assert viewer.ask("/api/v1/files", headers=bearer("guess")).status == 401
    assert compared == [(b"guess", TOKEN.encode())]


@pytest.mark.parametrize("host", [OURS, f"localhost:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}"])
def test_our_own_names_are_known(viewer, host):
    assert viewer.ask("/api/v1/files", headers={"host": host, **bearer()}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1",
        "localhost",
        f"127.0.0.1:{PORT + 1}",
        f"127.0.0.1.evil.example:{PORT}",
        f"192.168.0.7:{PORT}",
        f"evil@127.0.0.1:{PORT}",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/v1/files"])
def test_a_name_that_is_not_ours_is_misdirected(viewer, host, path):
    """What DNS rebinding sends: the right address and token, the attacker's name."""
    answer = viewer.ask(path, headers={"host": host, **bearer()})
    assert answer.status == 421
    assert b"model" not in answer.body


def test_no_host_and_two_hosts_are_misdirected(viewer):
    token = (b"authorization", f"Bearer {TOKEN}".encode())
    assert viewer.ask("/api/v1/files", raw=[token]).status == 421
    assert viewer.ask("/api/v1/files", raw=[(b"host", OURS.encode()), (b"host", b"evil"), token]).status == 421


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
@pytest.mark.parametrize("path", ["/", "/api/v1/files"])
def test_other_sites_may_not_ask(viewer, site, path):
    assert viewer.ask(path, headers={"sec-fetch-site": site, **bearer()}).status == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_our_own_page_may_ask(viewer, site):
    assert viewer.ask("/api/v1/files", headers={"sec-fetch-site": site, **bearer()}).status == 200


def test_a_link_to_the_page_may_be_followed_but_not_framed_and_not_to_the_data(viewer):
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert viewer.ask("/", headers=visit).status == 200
    assert viewer.ask("/", headers={**visit, "sec-fetch-dest": "iframe"}).status == 403
    assert viewer.ask("/", headers={**visit, "sec-fetch-mode": "no-cors"}).status == 403
    assert viewer.ask("/api/v1/files", headers={**visit, **bearer()}).status == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"http://127.0.0.1:{PORT + 1}", f"ftp://{OURS}"])
def test_other_origins_may_not_ask(viewer, origin):
    assert viewer.ask("/api/v1/files", headers={"origin": origin, **bearer()}).status == 403
    assert viewer.ask("/api/v1/files", headers={"origin": f"http://{OURS}", **bearer()}).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_only_reading_is_allowed(viewer, method):
    for path in ("/", "/api/v1/files"):
        answer = viewer.ask(path, headers=bearer(), method=method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, HEAD"
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_head_has_no_body(viewer):
    for path in ("/", "/api/v1/files"):
        answer = viewer.ask(path, headers=bearer(), method="HEAD")
        assert answer.status == 200
        assert int(answer.headers["content-length"]) > 0


def requests(viewer):
    """Return an answer of each kind."""
    asked = [
        ("/", {}), ("/index.html", {}), ("/nothing.js", {}), ("/api/v1/files", bearer()), ("/api/v1/files", {}),
        ("/api/v1/nothing", bearer()), ("/api/v1/file/9", bearer()), ("/api/v1/file/0/tensor/0/heat", bearer()),
        ("/api/v1/file/0/tensor/0/export.npy", bearer()), ("/api/v1/file/0/tensor/0/export.csv", bearer()),
    ]  # fmt: skip
    found = [viewer.ask(path, headers=headers) for path, headers in asked]
    return [*found, viewer.ask("/", headers={"host": "evil"}), viewer.ask("/", method="POST")]


def test_every_answer_carries_the_policy(viewer):
    statuses = set()
    for answer in requests(viewer):
        statuses.add(answer.status)
        parts = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert parts == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "set-cookie" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert statuses == {200, 401, 404, 405, 421}


def test_data_are_not_stored(viewer):
    paths = ["files", "file/0", "file/0/tensor/0/heat", "file/0/tensor/0/export.npy", "file/0/tensor/0/export.csv"]
    for path in [*paths, "file/9", "nothing"]:
        assert viewer.ask(f"/api/v1/{path}", headers=bearer()).headers["cache-control"] == "no-store"
    assert viewer.ask("/api/v1/files").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/assets/index.html",
        "/index.html/",
        "/INDEX.HTML",
        "/\0",
        "/.",
        "/api",
        "/api/v1",
        "/api/v2/files",
    ],
)
def test_no_path_leads_anywhere_else(viewer, path):
    assert viewer.ask(path, headers=bearer()).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "file/../../etc", "file/-1", "file/1", "file/0x0", "file/\N{ARABIC-INDIC DIGIT ZERO}", "file/0/tensor/99",
        "file/%2e",
    ],
)  # fmt: skip
def test_a_file_is_a_number(viewer, path):
    answer = viewer.ask(f"/api/v1/{path}", headers=bearer())
    assert answer.status == 404
    assert answer.json["error"]["message"]


def test_the_page_is_served_from_memory_with_its_type_and_tag(viewer):
    answer = viewer.ask("/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert viewer.ask("/", headers={"if-none-match": answer.headers["etag"]}).status == 304
    assert viewer.ask("/", headers={"if-none-match": '"other"'}).status == 200
    assert TOKEN.encode() not in answer.body
    assert b"model.pt" not in answer.body


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip, deflate, br", True), ("GZIP", True), ("br,gzip;q=0.5", True), ("gzip;q=0", False), ("gzip;q=0.0", False),
     ("", False), ("br", False), ("x-gzip", False)],
)  # fmt: skip
def test_the_page_is_packed_for_who_takes_that(viewer, accepted, packed):
    plain = viewer.ask("/")
    answer = viewer.ask("/", headers={"accept-encoding": accepted})
    assert answer.headers.get("content-encoding") == ("gzip" if packed else None)
    assert (gzip.decompress(answer.body) if packed else answer.body) == plain.body
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.headers["etag"] == plain.headers["etag"]
    # Never the data: the length of what is packed together tells about what is secret in it.
    data = viewer.ask("/api/v1/files", headers={"accept-encoding": accepted, **bearer()})
    assert "content-encoding" not in data.headers


def test_a_long_query_is_refused(viewer):
    assert viewer.ask("/api/v1/files", "a=" + "b" * 16382, headers=bearer()).status == 200
    assert viewer.ask("/api/v1/files", "a=" + "b" * 16383, headers=bearer()).status == 414


def test_what_is_noted_of_a_request_holds_no_token(viewer):
    viewer.ask("/api/v1/files", "token=abc", headers=bearer())
    assert viewer.seen == [("GET", "/api/v1/files", 200)]


def test_a_proxy_may_put_its_path_before_ours(tmp_path):
    path = tmp_path / "model.pt"
    weighlock.save({"w": np.arange(6.0)}, path)
    with viewing(path, hosts=frozenset({OURS, "hub.example"}), base="/user/ada/proxy/1") as viewer:
        for host in (OURS, "hub.example"):
            for base in ("", "/user/ada/proxy/1"):
                headers = {"host": host, "origin": f"https://{host}", **bearer()}
                assert viewer.ask(f"{base}/api/v1/files", headers=headers).status == 200
                assert viewer.ask(f"{base}/", headers={"host": host}).status == 200
        assert viewer.ask("/user/bob/proxy/1/api/v1/files", headers=bearer()).status == 404
        assert viewer.ask("/user/ada/proxy/1/api/v1/files").status == 401
        assert viewer.ask("/", headers={"host": "evil.example"}).status == 421


def test_an_exposed_server_takes_addresses_but_no_unknown_names(tmp_path):
    path = tmp_path / "model.pt"
    weighlock.save({"w": np.arange(6.0)}, path)
    with viewing(path, any_address=True) as viewer:
        for host, status in [
            (f"192.168.0.7:{PORT}", 200), (f"[fe80::1]:{PORT}", 200), ("192.168.0.7", 421),
            (f"192.168.0.7:{PORT + 1}", 421), (f"evil.example:{PORT}", 421),
        ]:  # fmt: skip
            assert viewer.ask("/api/v1/files", headers={"host": host, **bearer()}).status == status


def test_websockets_are_closed(viewer):
    import asyncio

    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(viewer.app({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
