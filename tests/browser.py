"""A real headless Chromium for tests, which asks nothing of a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: What is looked for on the PATH; Debian's packages are chromium and chromium-driver.
BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)


@contextmanager
def chromium(folder: Path, width: int = 1360, height: int = 900) -> Iterator[Any]:
    """Start a browser with an empty profile in `folder`; skips the test where there is none."""
    browser, driver = (next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, DRIVERS))
    if browser is None or driver is None:
        pytest.skip("no Chromium and its driver here: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for switch in (*SWITCHES, f"--user-data-dir={folder}", f"--window-size={width},{height}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))  # with its path, Selenium looks for no other
    try:
        resize(started, width, height)
        yield started
    finally:
        started.quit()


def resize(browser: Any, width: int, height: int) -> None:
    """Give the page this many CSS pixels, which a window need not have."""
    sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)


def prefer(browser: Any, scheme: str = "light", media: str = "") -> None:
    """Show the page in ``"light"`` or ``"dark"``; with the media ``"print"``, as on paper."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def messages(browser: Any) -> list[str]:
    """What the console says since the last time."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser: Any) -> list[str]:
    """The addresses that pages asked for since the last time."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


class Page:
    """An open page."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def js(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def wait(self, script: str) -> Any:
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.browser, 60, 0.05).until(lambda _browser: self.js(script))

    def keys(self, selector: str, *keys: str) -> None:
        element = self.find(selector)
        self.js("arguments[0].focus()", element)
        element.send_keys(*keys)

    def actions(self) -> Any:
        from selenium.webdriver import ActionChains

        return ActionChains(self.browser, duration=50)

    def box(self, selector: str) -> dict[str, float]:
        box: dict[str, float] = self.js(
            "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", selector
        )
        return box


def key(name: str) -> str:
    """The code of a key, by its name in Selenium."""
    from selenium.webdriver.common.keys import Keys

    code: str = getattr(Keys, name)
    return code
