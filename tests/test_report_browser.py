"""The report in a headless Chromium: on a phone, in the dark, by keyboard and screen reader."""

import html
import json
import re
import shutil
import subprocess
from itertools import pairwise

import pandas as pd
import pytest

import bertft
from tests import test_ablation_report, test_probing_report
from tests.test_comparison import nudge

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
# Told by the page to the test: a frame as wide as a phone has the page, and what it looks like.
PROBE = """
<pre id="told"></pre><iframe id="frame" style="width: WIDTHpx; height: 900px; border: 0"
  srcdoc="PAGE"></iframe>
<script>
onload = () => {
  const page = document.getElementById("frame").contentDocument;
  const all = (query) => [...page.querySelectorAll(query)];
  const shown = (element) => element.getClientRects().length > 0;
  const channels = (color) => {
    const found = color.match(/[\\d.]+/g).map(Number);
    return found.length > 3 ? found : [...found, 1];
  };
  const over = (front, back) => front.slice(0, 3).map(
    (value, i) => value * front[3] + back[i] * (1 - front[3]));
  const behind = (element) => {
    if (!element) return page.defaultView.matchMedia("(prefers-color-scheme: dark)").matches
      ? [0, 0, 0] : [255, 255, 255];
    const own = channels(page.defaultView.getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const light = (color) => color.map((value) => value / 255).map(
    (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  ).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (element) => {
    const back = behind(element);
    const front = over(channels(page.defaultView.getComputedStyle(element).color), back);
    const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const texts = all("body *:not(svg):not(svg *)").filter(
    (e) => shown(e) && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  const named = (element) => (element.getAttribute("aria-label")
    || element.textContent).trim();
  const ids = all("[id]").map((element) => element.id);
  const wide = all("body *").filter(
    (e) => !e.closest(".scroll") && e.getBoundingClientRect().right > WIDTH + 1);
  document.getElementById("told").textContent = JSON.stringify({
    width: page.documentElement.scrollWidth,
    wide: wide.map((element) => element.outerHTML.slice(0, 80)),
    contrast: texts.map((e) => [contrast(e), e.outerHTML.slice(0, 80)]).sort(
      (a, b) => a[0] - b[0])[0],
    size: Math.min(...texts.map(
      (e) => parseFloat(page.defaultView.getComputedStyle(e).fontSize))),
    dark: page.defaultView.getComputedStyle(page.body).backgroundColor,
    headings: all("h1, h2, h3, h4").map((element) => Number(element.tagName[1])),
    focusable: all("a[href], summary, [tabindex]").map(named),
    unfocusable: all(".scroll:not([tabindex='0'])").length,
    outlines: all("a[href], summary, [tabindex]").map((element) => {
      element.focus({focusVisible: true});
      const style = page.defaultView.getComputedStyle(element);
      const is_open = !element.closest("details:not([open]) > :not(summary)");
      return [is_open, page.activeElement === element, style.outlineStyle, style.outlineWidth];
    }),
    targets: all("a[href^='#']").map((a) => ids.includes(a.getAttribute("href").slice(1))),
    repeated: ids.filter((id, at) => ids.indexOf(id) !== at),
    headers: all("th:not([scope])").length,
    captions: all("table").filter(
      (table) => !table.caption && !table.getAttribute("aria-label")).length,
    pictures: all("svg").map((svg) => svg.getAttribute("role") === "img" &&
      page.getElementById(svg.getAttribute("aria-labelledby"))?.textContent.length > 20),
    regions: all("[role='region']").map((element) => element.getAttribute("aria-label")),
  });
};
</script>
"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs one of {', '.join(NAMES)}")
    return found


@pytest.fixture
def report(checkpoint, texts, tmp_path):
    """A report with everything there is: models, segments, sites, pairs, intervals, p-values."""
    models = [str(checkpoint(name, change=nudge(at))) for at, name in enumerate(("low", "high"))]
    records = [{"premise": a, "hypothesis": b} for a, b in pairwise(texts)]
    found = bertft.compare(
        str(checkpoint("base")),
        models,
        {"nli": records},
        group="segment",
        sites="output,attention",
        pairs="all",
        intervals="jackknife",
        groups=5,
        permutations=99,
        measures=["rsa", "cka", "svcca", "l2"],
        limit=60,
        layers="0,3",
    )
    found.save(tmp_path / "run")
    return tmp_path / "run" / "report.html"


def chromium(browser, tmp_path, *arguments):
    done = subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def told(browser, tmp_path, report, width, *, dark=False):
    probe = tmp_path / "probe.html"
    page = html.escape(report.read_text(encoding="utf-8"))
    filled = PROBE.replace("WIDTH", str(width)).replace("PAGE", page)
    probe.write_text(f"<!DOCTYPE html><meta charset=utf-8>{filled}", encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = chromium(browser, tmp_path, scheme, "--dump-dom", probe.as_uri())
    assert "CONSOLE" not in done.stderr
    found = re.search(r'<pre id="told">(.+?)</pre>', done.stdout, re.DOTALL)
    return json.loads(html.unescape(found[1]))


def test_on_a_phone_in_the_light_and_in_the_dark(browser, report, tmp_path):
    for width in (320, 390, 1200):
        for dark in (False, True):
            found = told(browser, tmp_path, report, width, dark=dark)
            assert (found["width"], found["wide"]) == (width, [])
            assert found["contrast"][0] >= 4.5, found["contrast"]
            assert found["size"] >= 11
            assert found["dark"] == ("rgb(16, 17, 19)" if dark else "rgb(246, 247, 249)")


def test_by_keyboard_and_screen_reader(browser, report, tmp_path):
    found = told(browser, tmp_path, report, 800)
    levels = found["headings"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(found["focusable"])
    assert found["unfocusable"] == 0
    outlines = [rest for is_open, *rest in found["outlines"] if is_open]
    assert len(outlines) > 10
    assert all(outline == [True, "solid", "2px"] for outline in outlines)
    assert len(found["targets"]) > levels.count(2)
    assert all(found["targets"])
    assert found["repeated"] == []
    assert (found["headers"], found["captions"]) == (0, 0)
    assert found["pictures"] == [True, True]
    assert len(set(found["regions"])) == len(found["regions"])


def test_it_says_nothing_and_asks_for_nothing(browser, report, tmp_path):
    """A policy that forbids all requests, and tells them on the console, is never broken."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    page = report.read_text(encoding="utf-8").replace(
        "<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{policy}">'
    )
    asking = page.replace("</main>", '<img src="https://example.org/x.png"></main>')
    for content, is_told in ((page, False), (asking, True)):
        copy = tmp_path / "copy.html"
        copy.write_text(content, encoding="utf-8")
        done = chromium(browser, tmp_path, "--dump-dom", copy.as_uri())
        assert ("CONSOLE" in done.stderr) == is_told, done.stderr
        assert "<h1>" in done.stdout


def test_in_print(browser, report, tmp_path):
    printed = tmp_path / "x.pdf"
    chromium(browser, tmp_path, f"--print-to-pdf={printed}", report.as_uri())
    raw = printed.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", raw))
    sizes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox\s*\[(.+?)\]", raw)}
    assert 4 <= pages <= 40
    assert all(width > height for _, _, width, height in sizes)


@pytest.mark.parametrize("kind", ["probes", "ablation"])
def test_reports_of_other_commands(browser, tmp_path, kind):
    table = test_ablation_report.grid()
    page = test_ablation_report.page_of(table)
    if kind == "probes":
        table = pd.concat([test_probing_report.grid(), test_probing_report.trees()])
        differences = test_probing_report.paired(table)
        page = test_probing_report.page_of(table, None, differences)
    report = tmp_path / "report.html"
    report.write_text(page, encoding="utf-8")
    for width in (320, 1200):
        for dark in (False, True):
            found = told(browser, tmp_path, report, width, dark=dark)
            assert (found["width"], found["wide"]) == (width, [])
            assert found["contrast"][0] >= 4.5, found["contrast"]
            assert found["size"] >= 11
    assert found["headings"][0] == 1
    assert all(after - before <= 1 for before, after in pairwise(found["headings"]))
    assert all(found["focusable"])
    assert found["unfocusable"] == 0
    assert all(rest[1:] == [True, "solid", "2px"] for rest in found["outlines"] if rest[0])
    assert all(found["targets"])
    assert found["repeated"] == []
    assert (found["headers"], found["captions"]) == (0, 0)
    assert found["pictures"]
    assert all(found["pictures"])
    assert len(set(found["regions"])) == len(found["regions"])
