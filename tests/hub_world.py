"""The hosts that the pages about the hub name, all of them on loopback: the pages run as they are written.

A proxy stands in the place of the network: it answers every https address itself, with certificates of its own. Which
part of `tests.hub_host` answers follows from the host that is asked for.
"""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.hub_host import Host, Repository, _Handler, serve, text_of

ROOT: Final = Path(__file__).parent.parent
HOME: Final = "/home/you"
"""What the pages show for the home folder."""

NAMES: Final = {
    "web": ("github.com", "gitlab.com", "codeberg.org", "huggingface.co", "git.example.com", "github.example.com"),
    "api": ("api.github.com",),
    "files": ("files.example.com", "mirror.example.com"),
}
WEIGHTS: Final = "our-group/digits/releases/download/v1/digits-1fbec7d6.pt"


class _Proxy(_Handler):
    """Answers an https request as the host would that it is for."""

    host: World

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        self.connection = self.host.context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def finish(self):
        super().finish()
        self.connection.close()

    def _answer(self):
        name = (self.headers.get("Host") or "").partition(":")[0]
        self.role = next((role for role, names in NAMES.items() if name in names), "files")
        super()._answer()


class World(Host):
    """Every host that the pages name."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.certificate = folder / "certificate.pem"
        self.context = self._make_context()
        self._servers.append(serve(_Proxy, host=self, role="web"))
        self.proxy = f"http://127.0.0.1:{self._servers[-1].server_address[1]}"
        self.web, self.api, self.files = "https://github.com", "https://api.github.com", "https://files.example.com"

    def _make_context(self) -> ssl.SSLContext:
        names = ",".join(f"DNS:{name}" for group in NAMES.values() for name in group)
        key = self.certificate.with_suffix(".key")
        self.certificate.parent.mkdir(parents=True, exist_ok=True)
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                   "-days", "2", "-subj", "/CN=loopback", "-addext", f"subjectAltName={names}",
                   "-addext", "basicConstraints=critical,CA:TRUE",
                   "-keyout", str(key), "-out", str(self.certificate)]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        return context

    def fill(self) -> None:
        """Put there what the pages load."""
        weights = (ROOT / "examples" / "digits.pt").read_bytes()
        self.put(WEIGHTS, weights)
        self.put("digits.pt", weights)
        self.put("other/digits-1fbec7d6.pt", b"<html>")
        self.put("weights/digits.pt", weights)
        files = read_folder(ROOT / "examples" / "hub" / "digits")
        repository = self.repository("our-group/digits")
        first = repository.commit(files, tag="v1")
        second = files["network.py"].replace(b'VERSION = "v1"', b'VERSION = "v2"')
        repository.commit({**files, "network.py": second}, tag="v2")
        archive = subprocess.run(
            ["git", "-C", str(repository.folder), "archive", "--format=zip", "--prefix=any/", first],
            check=True, capture_output=True,
        ).stdout  # fmt: skip
        self.put(f"github.com/our-group/digits/{first}.zip", archive)
        self.put("digits.zip", archive)
        torch = read_folder(ROOT / "examples" / "hub" / "digits-torch")
        self.repository("our-group/digits-torch", {**torch, "weights/digits.pt": weights}, tag="v1")
        self.repository("our-group/secret", files)
        self.private.add("our-group/secret")
        self.token = "s3cret"
        self.new("your-name/digits")

    def new(self, name: str) -> Repository:
        """Make a repository that is empty, and can be pushed to."""
        repository = Repository(self.folder / name.replace("/", "__"), "main")
        text_of(repository.folder, "config", "receive.denyCurrentBranch", "ignore")
        self.repositories[name] = repository
        return repository

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables of somebody whose network this is."""
        pushes = "".join(
            f'[url "{repository.folder}"]\n  pushInsteadOf = https://github.com/{name}\n'
            for name, repository in self.repositories.items()
        )
        config = home / ".gitconfig"
        config.write_text(f"[user]\n  name = You\n  email = you@example.com\n{pushes}")
        return {
            "HOME": str(home),
            "http_proxy": self.proxy,
            "https_proxy": self.proxy,
            "SSL_CERT_FILE": str(self.certificate),
            "GIT_SSL_CAINFO": str(self.certificate),
            "GIT_CONFIG_GLOBAL": str(config),
            "GIT_CONFIG_SYSTEM": os.devnull,
        }


def read_folder(folder: Path) -> dict[str, Any]:
    """Return the contents of the Python files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}
