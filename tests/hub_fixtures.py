"""A host, a store and settings for one test each."""

from __future__ import annotations

import os

import pytest

from tests.hub_host import Host


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host, a hub's folder of its own, and settings that send github.com to that host."""
    for name in list(os.environ):
        if name.startswith(("WEIGHLOCK_", "TORCH_", "GITHUB_", "XDG_")) and name != "WEIGHLOCK_LANE":
            monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with Host(tmp_path / "host") as running:
        monkeypatch.setenv("WEIGHLOCK_HUB_CONFIG", running.config(tmp_path / "hub.toml", retries=2))
        monkeypatch.setattr("weighlock.hub.download.Client.wait", lambda *_: None)
        yield running


@pytest.fixture
def store(host):
    from weighlock.hub.directories import find_store

    return find_store()
