"""The page in a browser: drawn without an error or a request, on desk and phone; hover, click and filters work."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from optimizer.report.page import write_report
from tests.optimizer.blame.bunches import hand_made
from tests.optimizer.report.results import small_result

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; install Debian's chromium")

LOCAL = ("file:", "data:", "blob:")

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@dataclass
class Seen:
    """A page, and what it did that it must not do."""

    page: Page
    wrong: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, result := small_result(), hand_made(result.winner, True))
    return path


def wait_for(page: Page, what: str) -> None:
    """Playwright's own waiting evaluates within the page, whose policy forbids that."""
    for _ in range(200):
        if page.evaluate(what):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within 10 s: {what}")


def opened(browser: Browser, report: Path, size: dict[str, int], scheme: str = "light") -> Seen:
    page = browser.new_page(viewport=size, color_scheme=scheme)
    seen = Seen(page)
    page.on("console", lambda said: seen.wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.wrong.append(str(error)))
    page.on("request", lambda asked: seen.wrong.append(asked.url) if not asked.url.startswith(LOCAL) else None)
    page.goto(report.as_uri())
    # All of them: whatever is drawn late moves what is below it, away from where a click goes.
    wait_for(page, "[...document.querySelectorAll('.figure')].every(box => box.querySelector('.main-svg'))")
    return seen


@pytest.fixture(scope="module")
def desk(browser: Browser, report: Path) -> Seen:
    return opened(browser, report, DESK)


@pytest.fixture(scope="module")
def phone(browser: Browser, report: Path) -> Seen:
    return opened(browser, report, PHONE, "dark")


def figure(label: str) -> str:
    return f'.figure[aria-label="{label}"]'


def click(page: Page, label: str, x: float, y: float) -> None:
    """Clicks a point of a figure by its values on the axes; Plotly looks under the pointer, so that must move first."""
    place = page.evaluate(
        """([selector, x, y]) => {
            const box = document.querySelector(selector), { xaxis, yaxis } = box._fullLayout;
            box.scrollIntoView({ block: "center" });
            const at = box.getBoundingClientRect();
            return [at.x + xaxis._offset + xaxis.d2p(x), at.y + yaxis._offset + yaxis.d2p(y)];
        }""",
        [figure(label), x, y],
    )
    page.mouse.move(place[0] - 3, place[1])
    page.mouse.move(*place)
    page.wait_for_selector(f"{figure(label)} .hovertext")
    page.wait_for_timeout(300)  # Plotly looks again some 50 ms after the pointer rests, and hears no click before
    page.mouse.down()
    page.mouse.up()


def test_every_figure_is_drawn_without_an_error_or_a_request(desk: Seen, phone: Seen) -> None:
    for seen in (desk, phone):
        boxes = seen.page.locator(".figure")
        assert boxes.count() > 8
        assert boxes.evaluate_all("boxes => boxes.every(box => box.querySelector('.main-svg'))")
        assert seen.wrong == []


def test_nothing_reaches_beyond_a_phone(phone: Seen) -> None:
    assert phone.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    widths = phone.page.locator(".figure .main-svg").evaluate_all("all => all.map(one => one.clientWidth)")
    assert max(widths) <= PHONE["width"]
    for summary in phone.page.locator("summary").all():
        summary.click()
    assert phone.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], "with all tables open"
    assert phone.wrong == []


def test_page_is_dark_where_the_reader_likes_it(desk: Seen, phone: Seen) -> None:
    papers = [one.page.evaluate("getComputedStyle(document.body).backgroundColor") for one in (desk, phone)]
    assert papers == ["rgb(255, 255, 255)", "rgb(22, 24, 27)"]
    inks = [one.page.evaluate("document.querySelector('.figure')._fullLayout.font.color") for one in (desk, phone)]
    assert inks == ["#1c1c1c", "#e8e8e8"]
    phone.page.emulate_media(color_scheme="light")
    wait_for(phone.page, "document.querySelector('.figure')._fullLayout.font.color === '#1c1c1c'")


def test_pointer_shows_coefficients_and_a_click_the_trial(desk: Seen) -> None:
    page = desk.page
    assert page.locator("#trial").is_hidden()
    click(page, "All trials", 1.25, 0.5)
    told = page.locator(f"{figure('All trials')} .hovertext").first.text_content() or ""
    assert "trial 1 of search" in told
    assert "λ of first: 0.500" in told
    page.wait_for_selector("#trial")  # a click is heard of later
    shown = page.locator("#trial").inner_text()
    assert "goodbunch merge runs/x --trial 1 --out runs/x/trial-1" in shown
    assert page.locator("#trial-layers .main-svg").count() > 0
    click(page, "Alignment against expertise", 1.0, 0.85)
    wait_for(page, "document.querySelector('#trial').innerText.includes('--trial 2 ')")  # the winner's
    assert desk.wrong == []


def test_answers_are_filtered(desk: Seen) -> None:
    page = desk.page
    shown = page.locator(".sample:visible")
    assert page.locator("#shown").text_content() == "2 of 2"
    page.select_option("select[name=kind]", "one")
    assert (shown.count(), page.locator("#shown").text_content()) == (1, "1 of 2")
    page.select_option("select[name=winner]", "right")
    assert shown.count() == 0
    page.select_option("select[name=kind]", "")
    assert "✓ winner" in shown.inner_text()
    page.select_option("select[name=winner]", "")
    page.fill("input[name=text]", "SEVEN")
    assert shown.count() == 1
    page.fill("input[name=text]", "")
    assert shown.count() == 2


def test_what_models_say_stays_text(desk: Seen) -> None:
    page = desk.page
    assert page.title() == "Goodbunch report"
    assert page.locator("img").count() == 0
    said = small_result().samples[0].answers
    answers = page.locator(".sample").first.locator(".answers > div").all_text_contents()
    assert answers == [f"✓ winner{said['winner']}", f"✗ base{said['base']}"]
