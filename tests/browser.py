"""A real browser for tests of pages: Debian's chromium, driven by its own chromedriver."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

__all__ = ["Browser", "browser"]


@frozen
class Browser:
    """A headless Chromium, and what it noted."""

    driver: webdriver.Chrome

    def open(self, page: Path, width: int = 1280, scheme: str = "light") -> None:
        """Show a file on a screen of so many pixels, in a light or dark scheme."""
        self.visit(page.as_uri(), width, scheme)

    def visit(
        self, address: str, width: int = 1280, scheme: str = "light", motion: str = "no-preference"
    ) -> None:
        """Show an address, for somebody who has said how much may move."""
        self.errors()
        self.requests()
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(address)

    def errors(self) -> list[str]:
        """What stands on the console since the last look, refusals of the page's policy too."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last look."""
        messages = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        return [
            message["message"]["params"]["request"]["url"]
            for message in messages
            if message["message"]["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser with a profile of its own; where there is none, a test is skipped, in CI it fails.

    The paths are given, so that Selenium looks for nothing online.
    """
    chromium, chromedriver = _found("chromium"), _found("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(chromedriver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def _found(command: str) -> str:
    path = shutil.which(command)
    if path is not None:
        return path
    reason = f"there is no {command}; on Debian: apt-get install chromium chromium-driver"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
