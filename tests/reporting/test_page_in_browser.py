"""Pages in a real browser, where the machine has Chromium: at the width of a desk and of a phone, light and dark."""

import os
import shutil

import pytest

from fedpurel_app.reporting.page.write import write_report
from tests.reporting.runs import make_run
from tests.reporting.sweeps import write_sweep

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OF_PAGE = """() => {
  const style = getComputedStyle(document.body), box = document.querySelector(".box");
  const small = [...document.querySelectorAll("svg text")].map(one => one.getBoundingClientRect().height);
  return {width: document.documentElement.scrollWidth, paper: style.backgroundColor, ink: style.color,
          boxes: getComputedStyle(box).overflowX, least: Math.min(...small),
          pictures: document.querySelectorAll("svg").length}
}"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # which refuses to run as root
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a run and of a sweep, with names that are longer than a phone is wide."""
    folder = tmp_path_factory.mktemp("browser")
    run = make_run(folder / "run", sites=("site-0", "a" * 64), settings={"template": "x" * 400 + "{}"})
    settings = {name: {"algorithm": name.lower()} for name in ("FedAvg", "FedPuReL")}
    table = {name: {seed: 50.0 + seed * step for seed in range(4)} for step, name in enumerate(settings, 1)}
    return {"run": write_report(run), "sweep": write_report(write_sweep(folder / "sweep", table, settings))}


@pytest.mark.parametrize("kind", ["run", "sweep"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_a_page_fits_its_window_and_says_nothing_on_the_console(browser, pages, kind, scheme, width):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    try:
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[kind].as_uri())
        found = page.evaluate(OF_PAGE)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        opened = page.evaluate("document.documentElement.scrollWidth")
    finally:
        context.close()
    assert found["width"] == opened == width and found["boxes"] == "auto"
    assert said == [] and [url for url in asked if not url.startswith("data:")] == [pages[kind].as_uri()]
    papers = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}
    assert found["paper"] == papers[scheme] and found["ink"] != found["paper"]
    assert found["pictures"] >= 1 and found["least"] >= 7  # pixels of the smallest letters of pictures


def test_the_keyboard_finds_the_content_first_and_scrolls_what_is_wider(browser, pages):
    context = browser.new_context(viewport={"width": 360, "height": 800})
    try:
        page = context.new_page()
        page.goto(pages["run"].as_uri())
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") == 0
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")
        assert page.evaluate("document.activeElement.getAttribute('role')") == "region"
    finally:
        context.close()
