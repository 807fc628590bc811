"""The report in a real browser: nothing breaks, pictures load, the slider moves, filters filter, views have links."""

import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.browser.conftest import Look

pytestmark = pytest.mark.browser
PAGES = ["index.html", "golden.html", "trends.html", "speed.html"]


@pytest.fixture(scope="session")
def seen(look: Look) -> Look:
    """The same look at a page is taken once."""
    return cache(look)


@pytest.mark.parametrize(("width", "dark"), [(1600, False), (400, True)], ids=["wide-light", "narrow-dark"])
@pytest.mark.parametrize("page", PAGES)
class TestEveryPage:
    def test_nothing_goes_wrong(self, seen: Look, page: str, width: int, dark: bool) -> None:
        assert seen(page, width, dark)["wrong"] == []

    def test_every_image_loads(self, seen: Look, page: str, width: int, dark: bool) -> None:
        found = seen(page, width, dark)
        assert found["broken"] == []
        assert (found["images"] > 0) == (page in ("index.html", "golden.html"))

    def test_nothing_is_wider_than_the_window(self, seen: Look, page: str, width: int, dark: bool) -> None:
        found = seen(page, width, dark)
        assert found["scrolled"] <= found["width"]

    def test_the_theme_is_the_readers(self, seen: Look, page: str, width: int, dark: bool) -> None:
        red = int(re.findall(r"\d+", seen(page, width, dark)["paper"])[0])
        assert (red < 64) is dark


def test_the_slider_moves_the_edge(seen: Look) -> None:
    found = seen("golden.html")["slider"]
    assert ["10%" in found["cuts"][0], "80%" in found["cuts"][1], found["focused"]] == [True] * 3


def test_pointing_and_the_space_key_flip(seen: Look) -> None:
    assert seen("golden.html")["views"]["shown"] == [False, True, True]


def test_the_flip_map_is_shown_and_has_a_link(seen: Look) -> None:
    found = seen("golden.html")["views"]
    assert found["flip"]
    assert "view=flip" in found["hash"]


def test_a_link_leads_to_a_view_of_a_picture(look: Look, two_nights: Path) -> None:
    anchor = re.findall(r'data-viewer="([^"]+)"', (two_nights / "golden.html").read_text())[0]
    found = look("golden.html", hash=f"#{urlencode({'at': anchor, 'view': 'difference'})}")
    assert found["restored"]["view"] == "difference"


@pytest.mark.parametrize("page", PAGES)
def test_filters_filter(seen: Look, page: str) -> None:
    found: dict[str, Any] = seen(page)["filters"]
    assert found["right"]
    assert 0 < found["left"] < found["items"] == found["again"]
    assert found["says"].startswith(f"{found['left']} of {found['items']} ")
    assert found["name"] in found["hash"]


def test_a_link_leads_to_a_filtered_page(look: Look) -> None:
    assert look("trends.html", hash="#op=linear+qkv")["restored"]["hidden"] > 0


@pytest.mark.parametrize("width", [400, 1600])
def test_bars_are_as_long_as_the_times_that_they_stand_for(seen: Look, width: int) -> None:
    bars = {bar["way"]: bar for bar in seen("speed.html", width, width == 400)["bars"]}
    fused, eager = bars["fused"], bars["gather/scatter, eager"]
    assert fused["drawn"] / eager["drawn"] == pytest.approx(0.25, abs=0.02)  # 25 of 100 ms
    assert fused["floor"] / fused["drawn"] == pytest.approx(0.8, abs=0.1)  # 20 of 25 ms


def test_every_plot_has_a_table_beside_it(seen: Look) -> None:
    assert seen("speed.html")["alone"] == 0


def test_kernels_are_filtered_by_the_dtype_of_their_experts(look: Look) -> None:
    assert look("speed.html", hash="#dtype=fp8")["restored"]["hidden"] > 0


def test_a_series_opens_reads_by_keyboard_and_closes_by_back(seen: Look) -> None:
    found = seen("trends.html")["series"]
    assert [found["opened"], found["changed"], found["closed"]] == [True] * 3
    assert found["moved"] == 3
    assert found["rows"] == 40


def test_a_series_shows_bands_and_where_the_environment_changed(seen: Look) -> None:
    found = seen("trends.html")["series"]
    assert found["bands"] >= 2
    assert found["cuts"] >= 1


def test_a_link_leads_to_a_series(look: Look) -> None:
    view = "linear.track_seconds qkv 4098 cold on NVIDIA H100 80GB HBM3, 16 cores"
    assert look("trends.html", hash=f"#{urlencode({'view': view})}")["restored"]["open"]
