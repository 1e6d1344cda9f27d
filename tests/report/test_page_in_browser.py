"""The page of ``densekit report`` in Chromium: filters, sorting, the enlarged view, keyboard, phone, no errors."""

import shutil

import pytest

from densekit.report.evaluation_page import evaluation_page
from densekit.report.run_files import read_run

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a run's page; any message on the console, error or request fails the test at its end."""
    complaints, contexts = [], []

    def opened(run, width=1280, **options):
        path = tmp_path / "page.html"
        path.write_text(evaluation_page(read_run(run, None), 3))
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints


def visible(page, selector):
    return page.eval_on_selector_all(selector, "nodes => nodes.filter(node => node.getClientRects().length).length")


def set_score(page, value):
    page.eval_on_selector(
        "#score", "(node, value) => { node.value = value; node.dispatchEvent(new Event('input')); }", str(value)
    )


def test_filters(instance_run, open_page):
    page = open_page(instance_run[0])
    assert page.title() == "scene, run: densekit report"  # no class name became code
    everything = visible(page, ".shape.true, .shape.false")
    set_score(page, 0.7)
    few = visible(page, ".shape.true, .shape.false")
    assert 0 < few < everything
    scores = page.eval_on_selector_all(
        ".shape[data-s]",
        "nodes => nodes.filter(node => node.getClientRects().length).map(node => Number(node.dataset.s))",
    )
    assert min(scores) >= 0.7 and page.inner_text("#score-value") == "0.70"
    matrix = page.inner_text(".confusion")
    set_score(page, 0.05)
    assert page.inner_text(".confusion") != matrix
    page.select_option("#class", label="person")
    classes = page.eval_on_selector_all(
        ".shape",
        "nodes => [...new Set(nodes.filter(node => node.getClientRects().length).map(node => node.dataset.c))]",
    )
    assert classes == ["0"]
    for card in page.locator(".pair:visible").all():
        assert card.locator(".shape:not(.off)").count() > 0
    assert page.locator("table.classes tr.on").count() == 1
    page.select_option("#class", label="absent")
    assert visible(page, ".pair") == 0 and page.is_visible(".none-left")
    assert "no object of this class" in page.inner_text("#recall")


def test_tallies_count_what_is_shown(instance_run, open_page):
    page = open_page(instance_run[0])
    for score in (0.05, 0.5, 0.95):
        set_score(page, score)
        for card in page.locator(".pair:visible").all():
            right = card.locator(".shape.true:not(.off)").count()
            wrong = card.locator(".shape.false:not(.off)").count()
            missed = card.locator(".shape.missed").count()
            assert card.locator(".tally").inner_text() == f"{right} right, {wrong} wrong, {missed} missed"


def test_layers_order_and_sorting(instance_run, open_page):
    page = open_page(instance_run[0])
    assert visible(page, ".mask") > 0
    page.uncheck("#show-mask")
    assert visible(page, ".mask") == 0 and visible(page, ".box") > 0
    worst = page.locator(".pair:visible figcaption b").all_inner_texts()
    page.check("input[value=best]")
    best = page.locator(".pair:visible figcaption b").all_inner_texts()
    assert len(worst) == len(best) == 3 and set(worst) != set(best)
    page.click("table.classes th:nth-child(3) button")
    first = page.locator("table.classes td:nth-child(3)").all_inner_texts()
    page.click("table.classes th:nth-child(3) button")
    assert page.locator("table.classes td:nth-child(3)").all_inner_texts() != first
    page.check("input[name=recall-task][value=segm]")
    assert "AP" in page.inner_text("#recall .legend")


def test_enlarged_view_and_keyboard(instance_run, open_page):
    page = open_page(instance_run[0])
    page.focus("#class")
    for _ in range(60):  # every control can be reached without a mouse
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('panels')"):
            break
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('#zoom').open")
    title = page.inner_text("#zoom .title")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#zoom .title") != title
    assert page.is_visible("#zoom .shape:not(.off) text")
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('#zoom').open")
    page.wait_for_function("document.activeElement.classList.contains('panels')")  # an event later
    page.focus("#recall .drawing")
    page.keyboard.press("ArrowRight")
    assert "recall 0:" in page.inner_text("#recall .readout")
    set_score(page, 0.7)  # curves do not depend on it, and stay as they are
    assert "recall 0:" in page.inner_text("#recall .readout")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(instance_run, open_page, scheme):
    page = open_page(instance_run[0], width=390, color_scheme=scheme, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    dark = [sum(map(int, colour[4:-1].split(","))) < 380 for colour in (ink, paper)]
    assert dark == ([True, False] if scheme == "light" else [False, True])


def test_curves_of_a_cityscapes_run(city_run, open_page):
    """Their points lie at other recalls than those of other curves, between which the readout says the line."""
    page = open_page(city_run, width=390)
    every = page.inner_text("#recall .legend")
    page.select_option("#class", label="car")
    one = page.inner_text("#recall .legend")
    assert one != every and one.count("(AP ") == 3
    page.hover("#recall .drawing", position={"x": 80, "y": 60})
    assert page.inner_text("#recall .readout").count("(AP ") == 3
    page.select_option("#class", label="train")
    assert "no object of this class" in page.inner_text("#recall")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_maps(map_run, open_page):
    page = open_page(map_run[0])
    assert page.locator(".gallery").count() == 2 and visible(page, "img.labels") > 0
    assert page.eval_on_selector_all("img", "nodes => nodes.every(node => node.naturalWidth > 0)")
    page.select_option("#class", label="car")
    assert "car taken for" in page.inner_text(".confusion[data-kind=semantic]")
    segments = page.locator(".confusion[data-kind=panoptic]")
    assert segments.locator("tbody tr").count() == 4 and segments.locator("td.right.on").inner_text() == "5"
    page.locator("button.panels:visible").first.click()
    assert page.locator("#zoom .panel").count() == 3


def test_many_classes_can_be_read(many_run, open_page):
    page = open_page(many_run[0])
    matrix = page.locator(".confusion[data-kind=semantic]")
    assert matrix.locator("tbody tr").count() == 24 and matrix.locator("thead th").count() == 25
    assert matrix.locator("thead th").last.inner_text() == "no class"
    page.select_option("#class", label="class 7")
    shown = matrix.locator("tbody th").all_inner_texts()
    assert "class 7" in shown and "class 30" in shown and "confused most with class 7" in matrix.inner_text()
    assert "class 7 taken for class 30" in matrix.locator(".mistakes li").first.inner_text()
    canvas = matrix.locator("canvas")
    box = canvas.bounding_box()
    at = {"x": box["width"] * 30.5 / 40, "y": box["height"] * 7.5 / 40}
    canvas.hover(position=at)
    assert matrix.locator(".readout").inner_text().startswith("class 7 \u2192 class 30: ")
    canvas.click(position={"x": 5, "y": box["height"] * 12.5 / 40})
    assert page.input_value("#class") == "class 12" and "class 12" in matrix.locator("tbody th.on").inner_text()
    page.select_option("#class", label="all classes")
    page.locator("button.panels:visible").first.click()
    assert page.locator("#zoom .panel").count() == 3 and page.locator("#zoom img.labels").count() == 2
    narrow = open_page(many_run[0], width=390)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 390
