"""The page of a run works in a real browser: at any width, light and dark, with the pointer and by keyboard."""

import shutil

import pytest

from tests.test_page import data_of, run, utterances_of, written

__all__ = ["run", "written"]  # the fixtures

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium here: apt-get install chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install playwright")

# Pages remember what they play, because nobody listens.
WATCH = """
  window.played = [];
  HTMLMediaElement.prototype.play = function () {
    played.push([this.src.slice(0, 14), this.currentTime]);
    return Promise.resolve();
  };
"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, written):
    """Open the page; at the end, no script of it may have failed."""
    pages, errors = [], []

    def opened(width=1000, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.add_init_script(WATCH)
        page.goto(written.as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert errors == []


CONTRAST = """(selector) => {
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (color) => {
    const [r, g, b] = color.match(/[0-9.]+/g).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const style = getComputedStyle(document.querySelector(selector));
  const ink = light(selector.includes("svg") ? style.fill : style.color);
  return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 500, 1400])
def test_nothing_overflows_and_text_in_tables_and_pictures_has_contrast(visit, width, scheme):
    page = visit(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    texts = ["h1", ".dim", "td small", "figcaption", "#figure-learning svg text", ".matrix text", "nav a"]
    contrasts = {selector: page.evaluate(CONTRAST, selector.replace(".matrix", "svg.matrix")) for selector in texts}
    assert min(contrasts.values()) >= 4.5, contrasts
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    assert page.evaluate(CONTRAST, "#figure-steps svg text") >= 4.5


def test_phones_share_one_time_axis_and_a_click_moves_the_cursor(visit, written):
    page = visit()
    first, second = utterances_of(written.read_text())
    for name in ("spoken", "heard"):
        found = page.evaluate(
            """(track) => {
              const axis = document.querySelector(".axis").getBoundingClientRect();
              return [...document.querySelectorAll(track + " span")].map((one) => {
                const box = one.getBoundingClientRect();
                return [(box.left - axis.left) / axis.width, box.width / axis.width, one.textContent];
              });
            }""",
            f".{name}",
        )
        assert len(found) == len(first[name])
        for (left, width, text), (start, end, phone) in zip(found, first[name], strict=True):
            assert left == pytest.approx(start / first["seconds"], abs=0.005)
            assert width == pytest.approx((end - start) / first["seconds"], abs=0.005)
            assert text == phone
    page.locator(".axis").click(position={"x": 100, "y": 30})
    share = page.evaluate("100 / document.querySelector('.axis').clientWidth")
    shown = float(page.get_attribute(".axis", "aria-valuenow"))
    assert shown == pytest.approx(share * first["seconds"], abs=0.02)
    assert page.inner_text(".now").startswith(f"{shown:.2f} s · spoken ")
    page.select_option("select", "1")
    assert page.inner_text(".end") == f"{second['seconds']:.2f} s"
    assert (
        page.evaluate("document.querySelector('audio').src")
        == data_of(written.read_text())["sounds"][second["utterance"]]
    )
    duration = "document.querySelector('audio').duration"
    page.wait_for_function(f"{duration} > 0")
    assert page.evaluate(duration) == pytest.approx(second["seconds"], abs=0.05)


@pytest.mark.parametrize("width", [320, 1400])
def test_phones_are_legible_at_once_and_all_of_them_after_zooming(visit, width):
    widths = "(row) => [...document.querySelectorAll(row + ' span')].map((one) => one.getBoundingClientRect().width)"
    page = visit(width)
    at_first = page.evaluate(widths, ".spoken")
    assert sum(one >= 14 for one in at_first) >= 0.9 * len(at_first)
    page.focus(".axis")
    for _ in range(10):
        page.keyboard.press("+")
    assert min(page.evaluate(widths, ".track")) >= 14
    for _ in range(10):
        page.keyboard.press("-")
    inside = "document.querySelector('.axis').clientWidth <= document.querySelector('.time .scroll').clientWidth"
    assert page.evaluate(inside)


def test_the_page_is_used_by_keyboard_alone(visit, written):
    """Tab reaches each part; keys move the cursor, choose cells and points, and play."""
    page, data = visit(), data_of(written.read_text())
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.getAttribute('class') || document.activeElement.tagName")
        reached.append(name)
        if name == "axis":
            for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
                page.keyboard.press(key)
            assert page.get_attribute(".axis", "aria-valuenow") == "0.10"
            page.keyboard.press("End")
            assert page.get_attribute(".cursor", "style") == "left: 100%;"
            page.keyboard.press("Home")
            page.keyboard.press(" ")
            assert page.evaluate("played") == [["data:audio/ogg", 0]]
        if name == "matrix":
            for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
                page.keyboard.press(key)
            assert page.inner_text("#cell") == cell_of(data["confusion"], 1, 1)
        if name == "map" and reached.count("map") == 1:
            page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowRight")
            speaker, utterance, start = data["maps"]["speakers"][1]
            assert page.inner_text("#point-speakers") == f"{speaker}: {utterance}, {start:.2f} to {start + 1:.2f} s"
            page.keyboard.press("Enter")
            assert page.evaluate("played[1]") == ["data:audio/ogg", start]
    assert reached[0] == "skip"
    assert {"axis", "matrix", "map", "save", "BUTTON", "SELECT", "INPUT", "SUMMARY", "A"} <= set(reached)


def cell_of(confusion, row, column):
    """Describe a cell of the confusion matrix as the page does."""
    names, counts = confusion["names"], confusion["counts"]
    total = sum(counts[row])
    share = f"{100 * counts[row][column] / total:.1f}" if total else "–"
    return f"{names[row]} as {names[column]}: {share} %, {counts[row][column]} of {total} frames"


def test_the_pointer_shows_the_value_of_a_cell_and_plays_the_second_of_a_point(visit, written):
    page, data = visit(), data_of(written.read_text())
    page.locator(".matrix").scroll_into_view_if_needed()
    matrix = page.evaluate(
        """() => {
          const svg = document.querySelector(".matrix"), box = svg.getBoundingClientRect();
          return [box.left, box.top, box.width / svg.viewBox.baseVal.width, Number(svg.dataset.left)];
        }"""
    )
    x, y, unit, left = matrix
    page.mouse.move(x + unit * (left + 14 * 2 + 7), y + unit * (left + 14 * 0 + 7))
    assert page.inner_text("#cell") == cell_of(data["confusion"], 0, 2)
    circle = page.locator(".map[data-name=phones] circle:not(.chosen)").nth(3)
    circle.scroll_into_view_if_needed()
    box = circle.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shown = page.inner_text("#point-phones")
    points = data["maps"]["phones"]
    says = [f"{phone}: {utterance}, {start:.2f} to {start + 1:.2f} s" for phone, utterance, start in points]
    phone, _, start = points[says.index(shown)]
    assert phone in data["confusion"]["names"]
    assert page.evaluate("played")[-1] == ["data:audio/ogg", pytest.approx(start, abs=0.01)]


def test_a_picture_is_saved_with_the_colours_that_it_has(visit, tmp_path):
    page = visit(scheme="dark")
    for name in ("learning", "confusion"):
        with page.expect_download() as caught:
            page.click(f".save[data-name={name}]")
        caught.value.save_as(tmp_path / f"{name}.svg")
        text = (tmp_path / f"{name}.svg").read_text()
        assert caught.value.suggested_filename == f"{name}.svg"
        assert "--ink: #e6e9ec" in text
        page.goto((tmp_path / f"{name}.svg").as_uri())
        ink = "getComputedStyle(document.querySelector('text')).fill"
        assert page.evaluate(ink) == "rgb(230, 233, 236)"
        page.go_back()
