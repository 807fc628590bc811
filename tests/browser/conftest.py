"""A real browser on the report: chromium without a window, started anew for every look at a page."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reports.conftest import two_nights

__all__ = ["two_nights"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
HERE = Path(__file__).parent
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
DARK = ["--blink-settings=preferredColorScheme=0"]
Look = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def browser() -> str:
    """The browser's command. Without one these tests fail: they are run by name, so nobody runs them by accident."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found, f"none of {', '.join(BROWSERS)} is installed, and this needs one (Debian: apt install chromium)"
    return found


@pytest.fixture(scope="session")
def watched(two_nights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the site whose pages also load early.js first and look.js last."""
    copy = tmp_path_factory.mktemp("watched") / "site"
    shutil.copytree(two_nights, copy)
    for name in ("early.js", "look.js"):
        shutil.copy(HERE / name, copy / name)
    for page in copy.glob("*.html"):
        text = page.read_text().replace("<head>", '<head><script src="early.js"></script>', 1)
        page.write_text(text.replace("</head>", '<script src="look.js" defer></script></head>', 1))
    return copy


@pytest.fixture(scope="session")
def look(browser: str, watched: Path, tmp_path_factory: pytest.TempPathFactory) -> Look:
    """look(page, width=1600, dark=False, hash="") opens a page, uses it (look.js) and returns what was found."""

    def looked(page: str, width: int = 1600, dark: bool = False, hash: str = "") -> dict[str, Any]:
        profile = tmp_path_factory.mktemp("profile")
        command = [browser, *FLAGS, *(DARK if dark else []), f"--user-data-dir={profile}", f"--window-size={width},900"]
        command += ["--virtual-time-budget=8000", "--dump-dom", f"file://{watched / page}{hash}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        left = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        assert left, f"{page} left nothing: {done.stderr[-2000:]}"
        found: dict[str, Any] = json.loads(html.unescape(left.group(1)))
        return found

    return looked
