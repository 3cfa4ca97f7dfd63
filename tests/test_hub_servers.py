"""Downloads from nginx, over TLS, and through proxies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import weighlock as wl
from tests.hub_nginx import Nginx
from tests.hub_proxy import Proxy, TlsServer
from tests.test_hub_download import DATA, leftovers, sha

pytestmark = pytest.mark.one_lane

hub = wl.hub


@pytest.fixture
def nginx(host, tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.bin").write_bytes(DATA)
    (tmp_path / "target").mkdir()
    with Nginx(tmp_path / "nginx", tmp_path / "served") as running:
        yield running


@pytest.mark.requires_nginx
class TestNginx:
    def test_whole(self, nginx, tmp_path):
        hub.download_url_to_file(nginx.url + "/a.bin", tmp_path / "target" / "a", hash_prefix=sha(DATA))
        assert nginx.seen() == [f'GET /a.bin 200 {len(DATA)} "-" "-"']

    def test_nothing_is_packed_that_need_not_be(self, nginx, tmp_path):
        (tmp_path / "served" / "a.bin").write_bytes(b"a" * 100_000)
        hub.download_url_to_file(nginx.url + "/packed/a.bin", tmp_path / "target" / "a")
        assert nginx.seen() == ['GET /packed/a.bin 200 100000 "-" "-"']

    def test_over_several_connections(self, nginx, tmp_path, monkeypatch):
        monkeypatch.setattr("weighlock.hub.parallel._RANGE", 1 << 19)
        monkeypatch.setattr("weighlock.hub.transfer._TRIAL_BYTES", 1)
        monkeypatch.setattr("weighlock.hub.transfer._FAST", float("inf"))
        with hub.configured(parallel_from=1 << 20):
            hub.download_url_to_file(nginx.url + "/a.bin", tmp_path / "target" / "a", hash_prefix=sha(DATA))
            ranges = [line for line in nginx.seen() if " 206 " in line]
            assert len(ranges) == -(-(len(DATA) - (1 << 20)) // (1 << 19))
            assert all('"bytes=' in line and '"\\x22' in line for line in ranges), ranges[0]
            hub.download_url_to_file(nginx.url + "/whole/a.bin", tmp_path / "target" / "b", hash_prefix=sha(DATA))
        assert [line for line in nginx.seen() if "/whole/" in line] == [f'GET /whole/a.bin 200 {len(DATA)} "-" "-"']

    def killed(self, nginx, target, at=1 << 20):
        """Start a process that downloads slowly, and kill it when some of it is there."""
        code = "import sys, weighlock; weighlock.hub.download_url_to_file(*sys.argv[1:3])"
        victim = subprocess.Popen([sys.executable, "-c", code, nginx.url + "/slow/a.bin", str(target)])
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if any(path.stat().st_size >= at for path in target.parent.glob(".*.part")):
                break
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        assert not target.exists()

    def test_a_later_run_goes_on(self, nginx, tmp_path):
        target = tmp_path / "target" / "a"
        self.killed(nginx, target)
        hub.download_url_to_file(nginx.url + "/slow/a.bin", target, hash_prefix=sha(DATA))
        assert target.read_bytes() == DATA
        last = nginx.seen()[-1].split()
        assert last[2] == "206"
        assert int(last[3]) <= len(DATA) - (1 << 20)
        assert last[4].startswith('"bytes=')
        assert last[5] != '"-"'
        assert leftovers(target.parent) == []

    def test_another_version_is_not_gone_on_with(self, nginx, tmp_path):
        target = tmp_path / "target" / "a"
        self.killed(nginx, target)
        (tmp_path / "served" / "a.bin").write_bytes(DATA[::-1])
        os.utime(tmp_path / "served" / "a.bin", (1, 1))
        hub.download_url_to_file(nginx.url + "/slow/a.bin", target, hash_prefix=sha(DATA[::-1]))
        assert target.read_bytes() == DATA[::-1]
        assert nginx.seen()[-1].split()[2] == "200"

    def test_a_beginning_that_the_disk_damaged_is_not_published(self, nginx, tmp_path):
        target = tmp_path / "target" / "a"
        self.killed(nginx, target)
        (part,) = target.parent.glob(".*.part")
        with part.open("r+b") as file:
            file.write(b"damage")
        with pytest.raises(wl.HashMismatchError):
            hub.download_url_to_file(nginx.url + "/slow/a.bin", target, hash_prefix=sha(DATA))
        assert not target.exists()
        hub.download_url_to_file(nginx.url + "/a.bin", target, hash_prefix=sha(DATA))

    def test_killed_with_every_byte_there(self, nginx, tmp_path):
        target = tmp_path / "target" / "a"
        self.killed(nginx, target)
        (part,) = target.parent.glob(".*.part")
        part.write_bytes(DATA)
        hub.download_url_to_file(nginx.url + "/slow/a.bin", target, hash_prefix=sha(DATA))
        assert target.read_bytes() == DATA
        # Not the last row: nginx may write down the broken-off request after this one.
        assert "416" in [row.split()[2] for row in nginx.seen()]


@pytest.fixture
def no_certificates(host, monkeypatch):
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tls(no_certificates, tmp_path):
    with TlsServer(tmp_path / "tls", DATA) as server:
        yield server


@pytest.mark.requires_openssl
class TestCertificates:
    def test_an_unknown_one_is_refused_at_once(self, tls, tmp_path):
        with pytest.raises(wl.NetworkError, match=r"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE="):
            hub.download_url_to_file(tls.url + "/a", tmp_path / "a")
        assert not tls.log

    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_a_file_of_ones_own(self, tls, tmp_path, monkeypatch, variable):
        monkeypatch.setenv(variable, str(tls.certificate))
        hub.download_url_to_file(tls.url + "/a", tmp_path / "a", hash_prefix=sha(DATA))

    def test_a_folder_of_ones_own(self, tls, tmp_path, monkeypatch):
        folder = tmp_path / "certificates"
        folder.mkdir()
        (folder / "own.pem").write_bytes(tls.certificate.read_bytes())
        subprocess.run(["openssl", "rehash", str(folder)], check=True)
        monkeypatch.setenv("SSL_CERT_DIR", str(folder))
        hub.download_url_to_file(tls.url + "/a", tmp_path / "a", hash_prefix=sha(DATA))

    def test_another_hosts_is_refused(self, no_certificates, tmp_path, monkeypatch):
        with TlsServer(tmp_path / "tls", DATA, "DNS:elsewhere.example") as server:
            monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
            with pytest.raises(wl.NetworkError, match="CERTIFICATE_VERIFY_FAILED"):
                hub.download_url_to_file(server.url + "/a", tmp_path / "a")
            assert not server.log


class TestProxies:
    def test_absolute_addresses_for_http(self, host, tmp_path, monkeypatch):
        url = host.put("a.bin", DATA)
        with Proxy() as proxy:
            monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
            monkeypatch.setenv("no_proxy", "")
            hub.download_url_to_file(url, tmp_path / "a", hash_prefix=sha(DATA))
            assert [row[:2] for row in proxy.log] == [("GET", url)]

    @pytest.mark.requires_openssl
    @pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
    def test_a_tunnel_for_https(self, tls, tmp_path, monkeypatch, variable):
        monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        with Proxy() as proxy:
            monkeypatch.setenv(variable, proxy.address)
            hub.download_url_to_file(tls.url + "/a", tmp_path / "a", hash_prefix=sha(DATA))
            assert [row[:2] for row in proxy.log] == [("CONNECT", tls.url.removeprefix("https://"))]
            assert "Authorization" not in proxy.log[0][2], "a secret is not for the proxy"
            assert "Authorization" in tls.log[0]

    @pytest.mark.requires_openssl
    def test_a_proxy_that_asks_who_is_there(self, tls, host, tmp_path, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
        url = host.put("a.bin", DATA)
        with Proxy("me:secret") as proxy:
            for user, good in (("", False), ("me:wrong@", False), ("me:secret@", True)):
                monkeypatch.setenv("http_proxy", f"http://{user}{proxy.address}")
                monkeypatch.setenv("https_proxy", f"http://{user}{proxy.address}")
                for address in (url, tls.url + "/a"):
                    if good:
                        hub.download_url_to_file(address, tmp_path / "a", hash_prefix=sha(DATA))
                        continue
                    with pytest.raises(wl.DownloadError, match=r"407|the proxy asks who you are"):
                        hub.download_url_to_file(address, tmp_path / "a")
        assert all("Proxy-Authorization" not in row[3] for row in host.log)
        assert all("Proxy-Authorization" not in headers for headers in tls.log)

    @pytest.mark.parametrize("exception", ["127.0.0.1", "127.0.0.1:PORT", "x.example,127.0.0.1", "*"])
    @pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
    def test_hosts_that_need_none(self, host, tmp_path, monkeypatch, exception, variable):
        url = host.put("a.bin", DATA)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv(variable, exception.replace("PORT", host.files.rpartition(":")[2]))
        hub.download_url_to_file(url, tmp_path / "a", hash_prefix=sha(DATA))
        monkeypatch.setenv(variable, "127.0.0.1:9,elsewhere.example")
        with pytest.raises(wl.NetworkError, match="[Pp]roxy"):
            hub.download_url_to_file(url, tmp_path / "a")

    def test_a_repository_through_a_proxy(self, host, monkeypatch):
        from tests.test_hub_load import files

        host.repository("o/n", files())
        with Proxy() as proxy:
            monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
            monkeypatch.setenv("no_proxy", "")
            hub.load("o/n", "net", trust_repo=True, skip_validation=True)
            assert len(proxy.log) == len(host.log) > 2
