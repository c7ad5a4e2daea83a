"""`clir report`: one page of finished experiments, read in a real Chromium."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Clir

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
in_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs the Debian packages chromium and chromium-driver"
)
SWEEP = ["retriever=bm25_qt,bm25_dt", "reranker=none,oracle", "dataset.pair=en-de,en-es"]


@pytest.fixture(scope="module")
def clir(tmp_path_factory: pytest.TempPathFactory) -> Clir:
    made = Clir(tmp_path_factory.mktemp("report"))
    made("run", "-m", *SWEEP, "--name", "eight", "--quiet")
    return made


@pytest.fixture(scope="module")
def page(clir: Clir) -> Path:
    (sweep,) = (clir.runs / "sweeps").glob("eight-*")
    assert clir("report", str(sweep), "-o", "report.html").stdout == "report.html\n"
    return clir.folder / "report.html"


def data(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    said: dict[str, Any] = json.loads(found[1])
    return said


def measured(clir: Clir, name: str = "metrics.csv") -> list[dict[str, str]]:
    (sweep,) = (clir.runs / "sweeps").glob("eight-*")
    with (sweep / name).open(newline="") as lines:
        return list(csv.DictReader(lines))


# What it says ---------------------------------------------------------------------------------------------------------


def test_every_value_is_that_of_the_metrics(clir: Clir, page: Path) -> None:
    rows = [row for row in measured(clir) if row["stage"] == "final"]
    said = data(page)
    assert len(said["rows"]) == 8
    for row in said["rows"]:
        pair = row["group"].split()[1]
        for measure, value in zip(said["measures"], row["values"], strict=True):
            (own,) = [
                r for r in rows
                if r["measure"] == measure and f"{r['query_lang']}-{r['doc_lang']}" == pair
                and (r["retriever"], r["reranker"]) == (row["retriever"], row["reranker"])
            ]  # fmt: skip
            assert value == float(own["value"])


def test_the_test_between_two_rankings_is_the_paired_t_test_over_their_topics(clir: Clir, page: Path) -> None:
    from scipy import stats

    said = data(page)
    group = next(g for g in said["groups"] if "en-de" in g["name"])
    names = [name for _, name, _ in group["series"]]
    scores = [[v / 1e4 for v in values[0]] for _, _, values in group["series"]]
    for i, j, difference, low, high, p in group["tests"]["0"]:
        deltas = [a - b for a, b in zip(scores[i], scores[j], strict=True)]
        assert difference == pytest.approx(statistics.fmean(deltas), abs=1e-4), (names[i], names[j])
        theirs = stats.ttest_1samp(deltas, 0)
        interval = theirs.confidence_interval()
        assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-3)
        assert math.isclose(p, theirs.pvalue, rel_tol=0.02, abs_tol=1e-4)


def test_costs_are_counted_once_where_steps_are_shared(clir: Clir, page: Path) -> None:
    steps = {row["step"]: float(row["seconds"]) for row in measured(clir, "costs.csv")}
    text = page.read_text()
    spent = re.search(r"Spent, shared steps once</dt><dd>([\d.]+) s of work", text)
    assert spent is not None and float(spent[1]) == pytest.approx(sum(steps.values()), abs=0.1)


def test_the_page_asks_for_nothing_but_itself(page: Path) -> None:
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.findall(
        r"(?:src|href)=\"(?!#)[^\"]*\"|url\(|@import|https?://(?!www\.w3\.org)", text.split('id="data"')[0]
    )


def test_a_query_that_is_markup_is_shown_and_not_run(clir: Clir) -> None:
    evil = '</script><script>document.title="run"</script><img src=x onerror=alert(1)>'
    own = clir.folder
    (own / "docs.tsv").write_text("d1\tred fish\nd2\tblue bird\n")
    (own / "topics.tsv").write_text(f"q1\tfish {evil}\nq2\tسمك أحمر fish\n")
    (own / "qrels.txt").write_text("q1 0 d1 1\nq2 0 d1 1\n")
    files = [f"dataset.{name}={name}.{'txt' if name == 'qrels' else 'tsv'}" for name in ("docs", "topics", "qrels")]
    folder = clir.experiment("dataset=files", *files, "dataset.query_lang=en", "dataset.doc_lang=en", "retriever=bm25")
    clir("report", str(folder), "-o", "evil.html", "--title", evil)
    text = (own / "evil.html").read_text()
    assert text.count("<script") == 2 and "<img" not in text, "the data and the page's own script"
    assert evil in json.dumps(data(own / "evil.html")).encode().decode("unicode_escape")


def test_plots_for_a_paper_are_the_same_bytes_every_time(clir: Clir) -> None:
    pytest.importorskip("matplotlib", reason="needs the package matplotlib")
    (sweep,) = (clir.runs / "sweeps").glob("eight-*")
    made: list[dict[str, bytes]] = []
    for folder in ("one", "two"):
        clir("report", str(sweep), "-o", "r.html", "--plots", folder, "--plot-format", "svg")
        made.append({path.name: path.read_bytes() for path in (clir.folder / folder).iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == {f"{n}.demo_{p}.svg" for n in ("recall", "cost", "topics") for p in ("en-de", "en-es")}
    assert b"bm25_dt+oracle" in made[0]["recall.demo_en-de.svg"], "text stays text"


def test_what_cannot_be_shown_is_refused_with_what_there_is(clir: Clir) -> None:
    (sweep,) = (clir.runs / "sweeps").glob("eight-*")
    assert "nDCG@10" in clir("report", str(sweep), "--measure", "nDCG@11", code=2).stderr
    assert "own_first_stage" in clir("report", str(sweep), "--baseline", "nobody", code=2).stderr
    assert "is a folder" in clir("report", str(sweep), "-o", ".", code=2).stderr
    clir("report", "nowhere", code=2)


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("selenium", reason="needs the package selenium")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        driver.get(page.as_uri())
        yield driver
        assert driver.get_log("browser") == [], "no error and no warning in the console, whatever was clicked"
    finally:
        driver.quit()


def column(browser: Any, table: str, number: int) -> list[str]:
    script = f"return [...document.querySelectorAll('#{table} tbody tr')].filter(r => r.offsetParent).map(r => r.cells[{number}].innerText)"
    found: list[str] = browser.execute_script(script)
    return found


@in_chromium
def test_a_click_on_a_column_sorts_by_it_and_another_click_turns_it_round(browser: Any) -> None:
    heads = [head.text for head in browser.find_elements("css selector", "#results thead th")]
    at = heads.index("nDCG@10")
    button = browser.find_elements("css selector", "#results thead .sort")[at]
    orders = []
    for _ in range(2):
        button.click()
        values = [float(text) for text in column(browser, "results", at)]
        orders.append(values)
        assert values in (sorted(values), sorted(values, reverse=True))
    assert orders[0] == orders[1][::-1] and len(set(orders[0])) > 1


@in_chromium
def test_words_and_conditions_filter_the_results(browser: Any) -> None:
    box = browser.find_element("css selector", "[data-filter=results]")
    for text, fits in (("oracle", lambda name, _: "oracle" in name), ("nDCG@10>0.7", lambda _, value: value > 0.7)):
        box.clear()
        box.send_keys(text)
        names, values = column(browser, "results", 1), [float(v) for v in column(browser, "results", 3)]
        assert 0 < len(names) < 8 and all(map(fits, names, values))
    box.send_keys("\b" * 20)
    assert len(column(browser, "results", 1)) == 8


@in_chromium
def test_both_themes_have_readable_colours(browser: Any) -> None:
    papers = []
    for theme in ("light", "dark"):
        browser.find_element("css selector", f"[data-theme-set={theme}]").click()
        style = browser.execute_script("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
        paper, ink = ([int(x) / 255 for x in re.findall(r"\d+", colour)[:3]] for colour in style)
        papers.append(sum(paper))
        assert contrast(paper, ink) > 7, "WCAG 2.2, level AAA"
    assert papers[0] > 2.5 and papers[1] < 0.6


def contrast(a: list[float], b: list[float]) -> float:
    def light(colour: list[float]) -> float:
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    bright, dark = sorted((light(a), light(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@in_chromium
def test_two_rankings_are_drawn_topic_by_topic_and_can_be_swapped(browser: Any) -> None:
    points = browser.execute_script(
        "return document.querySelectorAll('#plot-scatter svg [data-id], #plot-scatter svg path, #plot-scatter svg circle').length"
    )
    assert points >= 36
    before = browser.find_element("id", "verdict").text
    swap = browser.find_element("id", "swap")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", swap)
    swap.click()
    after = browser.find_element("id", "verdict").text
    assert before != after
    change = [re.search(r"= ([+\u2212-][\d.]+)", text) for text in (before, after)]
    one, other = (float(m[1].replace("\u2212", "-")) for m in change if m)
    assert one == pytest.approx(-other)
    assert len(column(browser, "topics", 0)) == 36


@in_chromium
def test_it_can_be_printed(browser: Any) -> None:
    import base64

    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF") and 1 < pdf.count(b"/Type /Page\n") < 15
