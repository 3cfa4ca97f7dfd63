"""The viewer's page in the chromium of the system, over `weighlock view` as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Locator, Page

IN_CHROMIUM: Final = [pytest.mark.requires_chromium, pytest.mark.one_lane]
PATIENCE: Final = 10_000
"""Milliseconds that the page is waited for: two cores may be shared by many."""


class Served:
    """A running viewer."""

    def __init__(self, *files: Path | str) -> None:
        command = [sys.executable, "-m", "weighlock", "view", "--no-browser", *map(str, files)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert "#token=" in self.url, "the viewer did not start"
        self.root, _, self.token = self.url.partition("#token=")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


@contextmanager
def serving(*files: Path | str) -> Iterator[Served]:
    served = Served(*files)
    try:
        yield served
    finally:
        served.stop()


class Tab:
    """A page of the viewer, with all that the browser complained of."""

    def __init__(self, context: BrowserContext, served: Served) -> None:
        context.set_default_timeout(PATIENCE)
        self.context, self.served = context, served
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.waiting = 0
        self.page.on("request", lambda request: self._count(1))
        self.page.on("requestfinished", lambda request: self._count(-1))
        self.page.on("requestfailed", lambda request: self._count(-1))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dismiss)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _count(self, by: int) -> None:
        self.waiting += by

    def settle(self) -> None:
        """Wait until everything that the page has asked for is there and shown."""
        quiet = 0
        while quiet < 3:
            self.page.wait_for_timeout(40)
            quiet = 0 if self.waiting > 0 or self.find("[aria-busy]").count() else quiet + 1

    def open(self, place: str = "") -> Tab:
        """Open the address that the viewer printed, and go to a view."""
        self.page.goto(self.served.url)
        self.page.wait_for_selector("nav a")
        if place:
            self.go(place)
        return self

    def go(self, place: str) -> None:
        self.page.evaluate("place => { location.hash = place }", f"#/{place}")

    def find(self, selector: str, **options: Any) -> Locator:
        return self.page.locator(selector, **options)

    def wait(self, selector: str, **options: Any) -> Locator:
        found = self.page.locator(selector, **options).first
        found.wait_for()
        return found

    def row(self, text: str) -> Locator:
        """Return the row of a list whose name is `text`."""
        return self.page.locator(".row[data-index]").filter(has=self.page.get_by_text(text, exact=True)).first

    def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        """Wait until something holds, and return it."""
        end = time.monotonic() + PATIENCE / 1000
        while not (found := condition()):
            assert time.monotonic() < end, f"the page did not come to it: {what}"
            self.page.wait_for_timeout(20)
        return found

    def focused(self) -> str:
        """Return the text of what has the focus."""
        return str(self.page.evaluate("document.activeElement.innerText || ''"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Chromium itself. For a module, not for the session: while it runs, `asyncio.run` cannot be called beside it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # No sandbox: as root, as in a container, chromium starts only without.
        arguments = ["--no-sandbox"] if not hasattr(os, "geteuid") or os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def new_tab(chromium: Browser) -> Iterator[Callable[..., Tab]]:
    """A function that opens a tab in a fresh profile: `new_tab(served, color_scheme="dark")`."""
    contexts: list[BrowserContext] = []

    def make(served: Served, **options: Any) -> Tab:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        return Tab(context, served)

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def tab(new_tab: Callable[..., Tab], served: Served) -> Iterator[Tab]:
    """A tab of the module's own viewer, at its first view, of which the browser has nothing to complain."""
    made = new_tab(served)
    yield made.open()
    assert made.complaints == []
