"""The page in a browser that reaches no network: what people press, read and see. `tests/browser/install.sh` installs what is needed; without it all is skipped."""

import base64
import io
import re
import shutil
import threading
from pathlib import Path

import ml_collections
import numpy as np
import pytest
from PIL import Image

from causal_ctx import answers, serve
from causal_ctx.data.contexts import subsets
from causal_ctx.reports import composer, page
from causal_ctx.reports.reading import read_results
from causal_ctx.run import Run
from tests.test_reports import CONCEPTS, FakeRun

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; run tests/browser/install.sh")
AXE = Path(__file__).parents[2] / "build" / "axe" / "package" / "axe.min.js"
EVIL = ('<img src=x onerror="document.title=1">&', "</script><script>throw 1</script>", "\u05e9\u05dc\u05d5\u05dd \u202e left", "\U0001f9e0 'quoted' \"twice\"")


@pytest.fixture(scope="module")
def browser():
    own = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=own, args=["--no-sandbox", "--disable-gpu"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium starts here ({str(error).splitlines()[0]}); run tests/browser/install.sh")
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [FakeRun(folder / f"{m}{s}", method=m, seed=s) for m, s in (("cm_end_to_end", 0), ("cm_end_to_end", 1), ("base_pooled", 0))]
    return page.write_report(runs, folder / "report.html")


@pytest.fixture
def open_page(browser):
    """Opens a page from disk; afterwards nothing may have been said on its console, and nothing asked of the network."""
    contexts, said, asked = [], [], []

    def open_(page: Path | str, width: int = 1100, scheme: str = "light"):
        served = isinstance(page, str)
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=not served))
        opened = contexts[-1].new_page()
        opened.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        opened.on("pageerror", lambda error: said.append(str(error)))
        allowed = ("file:", "data:", *[page] * served)
        opened.on("request", lambda request: asked.append(request.url) if not request.url.startswith(allowed) else None)
        opened.goto(page if served else page.absolute().as_uri())
        return opened

    yield open_
    for context in contexts:
        context.close()
    assert not said and not asked


def sheet(opened, number: int) -> np.ndarray:
    """The pixels of a sheet, decoded here."""
    source = opened.locator("img.sheet").nth(number).get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"), int)


def shown(opened, canvas, number: int, side: int = 32) -> np.ndarray:
    """The tiles of a canvas [number, side, side, 3], in lines of four with a pixel between them."""
    opened.wait_for_timeout(150)
    png = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png.partition(",")[2]))).convert("RGB"), int)
    return np.stack([pixels[(i // 4) * (side + 1) :, (i % 4) * (side + 1) :][:side, :side] for i in range(number)])


def test_it_opens_alone_and_every_image_decodes(report, open_page):
    opened = open_page(report)
    decoded = opened.evaluate("Promise.all([...document.images].map(image => image.decode().then(() => image.naturalWidth > 1, () => false)))")
    assert len(decoded) > 6 and all(decoded)
    navigation = opened.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
    assert navigation < 2000, f"usable after {navigation:.0f} ms"


@pytest.mark.parametrize("ticked", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_ticking_concepts_shows_the_images_of_that_set(report, open_page, ticked):
    opened = open_page(report)
    opened.get_by_role("button", name="No interventions").click()
    panel = opened.locator("fieldset.composed").first
    for place in ticked:
        panel.get_by_role("checkbox").nth(place).check()
    drawn, row = sheet(opened, 1), subsets(CONCEPTS).index("+".join(CONCEPTS[i] for i in ticked) or "obs")
    tiles = shown(opened, panel.locator("canvas").first, composer.NOISES)
    for place, tile in enumerate(tiles):
        np.testing.assert_allclose(tile, drawn[32 * row : 32 * (row + 1), 32 * place : 32 * (place + 1)], atol=2)
    words = panel.locator(".status").inner_text()
    assert ("a composition never trained on" in words) == (len(ticked) > 1) and all(CONCEPTS[i] in words for i in ticked)
    there_are_real_ones = len(ticked) < 3
    assert panel.locator("canvas").nth(1).is_visible() == ("Distance to real images" in words) == there_are_real_ones


def test_both_panels_follow_and_every_run_can_be_seen(report, open_page):
    opened = open_page(report)
    a, b = opened.locator("fieldset.composed").all()
    a.get_by_role("checkbox").nth(2).check()
    assert b.get_by_role("checkbox").nth(2).is_checked()
    opened.get_by_label("Same interventions").uncheck()
    b.get_by_role("checkbox").nth(2).uncheck()
    assert a.get_by_role("checkbox").nth(2).is_checked()
    names = a.locator("option").all_inner_texts()
    assert sorted(names) == ["base_pooled", "cm_end_to_end, seed 0", "cm_end_to_end, seed 1"]
    b.locator("select").select_option("base_pooled")
    assert "told of no interventions" in b.locator(".status").inner_text()
    opened.get_by_text("All runs under the interventions of A").click()
    assert opened.locator(".composer details canvas").count() == 3


def test_values_of_curves_are_read_off_by_pointer_and_keys(report, open_page):
    opened = open_page(report)
    chart = opened.locator(".panel-chart").first
    chart.scroll_into_view_if_needed()
    at_the_end = chart.locator(".readout").inner_text()
    box = chart.locator("svg").first.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert re.match(r"after [\d.]+k images: .*seed 0 [\d.]+, .*seed 1 [\d.]+", chart.locator(".readout").inner_text())
    opened.mouse.move(1, 1)
    assert chart.locator(".readout").inner_text() == at_the_end
    chart.locator("svg").first.focus()
    opened.keyboard.press("ArrowLeft")
    last = chart.locator(".readout").inner_text()
    opened.keyboard.press("ArrowLeft")
    assert last.startswith("after ") and chart.locator(".readout").inner_text() != last


def test_tables_sort_and_runs_are_filtered(report, open_page):
    opened = open_page(report)
    table = opened.locator("table.wide").first
    names = lambda: table.locator("tbody").first.locator("tr[data-label]:visible th").all_inner_texts()
    before = names()
    table.get_by_role("button", name="ours").click()
    assert table.locator("th[aria-sort=ascending]").count() == 1
    values = [float(cell.split()[0]) for cell in table.locator("tbody").first.locator("tr[data-label] td:nth-child(3)").all_inner_texts()]
    assert values == sorted(values)
    opened.get_by_label("Show runs").fill("pooled")
    assert names() == ["base_pooled"] and opened.locator("#filtered").inner_text().startswith("1 of 3 runs")
    opened.get_by_label("Show runs").fill("none is called so")
    assert not table.locator("tbody").first.is_visible() and opened.locator("#filtered").inner_text().startswith("0 of 3 runs")
    opened.get_by_label("Show runs").fill("")
    assert sorted(names()) == sorted(before)
    cells = "table => [...table.tBodies[0].querySelectorAll('tr[data-label]')].map(row => row.cells[2])"
    table.evaluate(f"(table, counts) => ({cells})(table).forEach((cell, i) => cell.textContent = counts[i])", ["985", "12,345"])
    table.get_by_role("button", name="ours").click()
    assert table.evaluate(f"table => ({cells})(table).map(cell => cell.textContent)") == ["12,345", "985"]


def test_the_keyboard_alone_reaches_the_composer(report, open_page):
    opened = open_page(report)
    for _ in range(60):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.matches('.ticks input')"):
            break
    before = opened.evaluate("document.activeElement.checked")
    opened.keyboard.press("Space")
    assert opened.evaluate("document.activeElement.checked") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_schemes(report, open_page, scheme):
    opened = open_page(report, 375, scheme)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 375
    light = sum(map(int, re.findall(r"\d+", opened.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])) > 380
    assert light == (scheme == "light")


def test_names_of_any_kind_are_text(open_page, tmp_path):
    concepts = EVIL[:3]
    run = FakeRun(tmp_path / EVIL[3], concepts=concepts)
    opened = open_page(page.write_report([run], tmp_path / "a report \u05e9 \U0001f9e0.html"))
    assert [text.strip() for text in opened.locator("fieldset.composed").first.locator(".ticks label").all_inner_texts()] == list(concepts)
    opened.locator("fieldset.composed").first.get_by_role("checkbox").last.check()
    assert concepts[2] in opened.locator(".status").first.inner_text() and opened.title() != "1" and opened.locator("img[src=x]").count() == 0


class Live(FakeRun, Run):
    """A made-up run that a server takes."""

    concepts = ()


def test_a_server_makes_what_was_not_drawn(open_page, tmp_path):
    run = Live(tmp_path, concepts=tuple(f"c{i}" for i in range(8)))
    run.config = ml_collections.ConfigDict(run.config)
    html = page.write_report([run], tmp_path / "report.html")
    missing = ("c1", "c3", "c4", "c6")
    assert "1,3,4,6" not in composer.of_interventions([("run", run)], [read_results(tmp_path)], [0]).data["entries"][0]["rows"]
    with serve.Server(answers.Served([("cm_end_to_end", run)], html.read_bytes(), html.parent), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened = open_page(f"http://127.0.0.1:{server.port}/")
        panel = opened.locator("fieldset.composed").first
        opened.get_by_role("button", name="No interventions").click()
        for name in missing:
            panel.get_by_role("checkbox", name=name, exact=True).check()
        opened.wait_for_timeout(500)
        for seed in (0, 1):
            wanted = np.round(255 * run.generate(missing, composer.NOISES, seed))
            np.testing.assert_allclose(shown(opened, panel.locator("canvas").first, composer.NOISES), wanted, atol=1)
            opened.get_by_role("button", name="Other noise").click()
            opened.wait_for_timeout(500)
        server.shutdown()
    with serve.Server(answers.Served([("cm_end_to_end", run)], html.read_bytes(), html.parent.parent), 0) as other:  # where the run is another one
        threading.Thread(target=other.serve_forever, daemon=True).start()
        opened = open_page(f"http://127.0.0.1:{other.port}/")
        for name in missing:
            opened.locator("fieldset.composed").first.get_by_role("checkbox", name=name, exact=True).check()
        assert "--mode=serve draws any set" in opened.locator(".status").first.inner_text()
        other.shutdown()
    from_disk = open_page(html).locator("fieldset.composed").first
    for tick in from_disk.get_by_role("checkbox").all():
        tick.set_checked(tick.evaluate("tick => tick.parentElement.textContent.trim()") in missing)
    assert "--mode=serve draws any set" in from_disk.locator(".status").inner_text() and not from_disk.locator("canvas").first.is_visible()


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there; run tests/browser/install.sh")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anyone_out(report, open_page, scheme):
    """No serious or critical violation that axe-core finds."""
    opened = open_page(report, scheme=scheme)
    opened.evaluate(AXE.read_text("utf-8") + "; 0")
    found = opened.evaluate("axe.run()")["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:120]) for v in found if v["impact"] in ("serious", "critical")] == []
