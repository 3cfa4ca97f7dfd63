"""An S3 server on loopback."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import pytest


class S3(NamedTuple):
    """A running server: the file system of s3fs, the options that lead to it, and a line for each request."""

    system: Any
    options: dict[str, Any]
    lines: list[str]


@pytest.fixture(scope="session")
def s3_server():
    """The S3 server of moto, with an empty bucket called ``bucket``."""
    from moto.server import ThreadedMotoServer

    lines: list[str] = []
    logger = logging.getLogger("werkzeug")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    before, logger.level, logger.propagate = logger.level, logging.INFO, False
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    options = {"key": "a", "secret": "b", "endpoint_url": f"http://127.0.0.1:{port}"}
    import s3fs

    system = s3fs.S3FileSystem(**options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        system.mkdir("bucket")
    yield S3(system, options, lines)
    server.stop()
    logger.removeHandler(handler)
    logger.level, logger.propagate = before, True


@pytest.fixture
def s3_by_environment(s3_server, monkeypatch):
    """The same server, found without any option: as the environment of a machine of Amazon's would say."""
    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server.options["endpoint_url"]), ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_EC2_METADATA_DISABLED", "true"),
        ("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    return s3_server
