"""
A real browser: Debian's Chromium, without a window.
"""

from __future__ import annotations

import os
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
    WebDriverException,
)
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from twisted.trial.unittest import SkipTest

from tests.integration.support import program, until

#: So tall is its window, in pixels; and so long it may take, in seconds.
HEIGHT, PATIENCE = 900, 60

_OPTIONS = (
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--lang=en", "--no-first-run", "--disable-background-networking", "--disable-sync"),
)


def axe() -> str:
    """
    What looks whether a page is accessible: the source of axe-core.

    @raise SkipTest: it is not here.
    """
    path = os.environ.get("DEFERRALS_AXE", "")
    if not os.path.isfile(path):
        raise SkipTest("axe-core is not installed")
    with open(path, encoding="utf-8") as file:
        return file.read()


class Browser:
    """
    One window.

    @param root: what paths are below.
    @param width: of the window, in pixels.
    """

    def __init__(self, root: str, width: int = 1280) -> None:
        options = Options()
        options.binary_location = program("chromium")
        for one in _OPTIONS:
            options.add_argument(one)
        if os.getuid() == 0:
            options.add_argument("--no-sandbox")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        options.set_capability("acceptInsecureCerts", True)
        service = Service(program("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_page_load_timeout(PATIENCE)
        self.driver.set_script_timeout(PATIENCE)
        self._root = root
        self.resize(width)

    def close(self) -> None:
        self.driver.quit()

    def resize(self, width: int, height: int = HEIGHT) -> None:
        """
        Make the window as wide as that, as a phone's is, too.
        """
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """
        @param scheme: C{"light"} or C{"dark"}.
        """
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def script(self, isOn: bool) -> None:
        """
        Let pages have scripts, or not.
        """
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not isOn})

    def get(self, path: str) -> str:
        """
        @return: the page's HTML, as it came.
        """
        self.driver.get(self._root + path)
        return self.driver.page_source

    @property
    def text(self) -> str:
        """
        What is read on the page; nothing, while another one comes.
        """
        try:
            return self.find("body").text
        except WebDriverException as error:
            if not _isOfAnother(error):
                raise
            return ""

    @property
    def path(self) -> str:
        """
        Where it is now.
        """
        return self.driver.current_url.removeprefix(self._root)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def fill(self, **fields: str) -> None:
        """
        Write into fields, by their names.
        """
        for name, value in fields.items():
            field = self.find(f"main [name={name}]")
            field.clear()
            field.send_keys(value)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def submit(self, selector: str) -> None:
        """
        Click at what sends a form, and wait for the page behind it.
        """
        before = self.find("html")
        self.click(selector)
        until(lambda: _isGone(before) and self.text, "another page")

    def login(self, user: str, password: str) -> None:
        self.get("/login")
        self.fill(user=user, password=password)
        self.submit("main button[type=submit]")

    def run(self, script: str) -> Any:
        """
        @return: what a script of the test's says.
        """
        return self.driver.execute_script(script)

    def complaints(self) -> list[str]:
        """
        What the browser did not like, since the last time: errors of scripts, what the
        policy of the page has stopped, what could not be loaded.
        """
        return [one["message"] for one in self.driver.get_log("browser")]

    def barriers(self, source: str) -> list[str]:
        """
        What axe-core finds wrong with the page, and where.

        @param source: axe-core.
        """
        self.driver.execute_script(source)
        found = self.driver.execute_async_script(
            "axe.run(document, {resultTypes: ['violations']}).then(arguments[0])"
        )
        return [
            f"{one['id']}: {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')}"
            for one in found["violations"]
            for node in one["nodes"]
        ]

    def picture(self, path: str, most: int = 1600) -> None:
        """
        Write the whole page as a PNG, up to so many pixels in height.
        """
        width = self.run("return window.innerWidth")
        height = self.run("return document.documentElement.scrollHeight")
        self.resize(width, min(height, most))
        self.driver.save_screenshot(path)
        self.resize(width)


def _isGone(element: WebElement) -> bool:
    try:
        element.is_enabled()
    except WebDriverException as error:
        if not _isOfAnother(error):
            raise
        return True
    return False


def _isOfAnother(error: WebDriverException) -> bool:
    """
    Whether an element was not found since another page has come at that moment, which the
    driver says in several ways.
    """
    isKnown = isinstance(error, NoSuchElementException | StaleElementReferenceException)
    return isKnown or "does not belong to the document" in str(error)
