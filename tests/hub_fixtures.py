"""A host, a store and settings for one test each."""

from __future__ import annotations

import os

import pytest

from tests.hub_host import Host
from tests.hub_world import World
from weighlock.hub import set_dir

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def forget_environment(monkeypatch):
    """Take out of the environment what the hub would follow."""
    for name in list(os.environ):
        if name.startswith(("WEIGHLOCK_", "TORCH_", "GITHUB_", "XDG_")) and name != "WEIGHLOCK_LANE":
            monkeypatch.delenv(name)
    for name in _PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Every host that the pages about the hub name, and a home folder of one's own."""
    forget_environment(monkeypatch)
    home = tmp_path / "home"
    home.mkdir()
    with World(tmp_path / "world") as running:
        running.fill()
        for name, value in running.environment(home).items():
            monkeypatch.setenv(name, value)
        # What a page sets in its own process is undone behind it.
        before = dict(os.environ)
        yield running
        os.environ.clear()
        os.environ.update(before)
        set_dir(None)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host, a hub's folder of its own, and settings that send github.com to that host."""
    forget_environment(monkeypatch)
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
