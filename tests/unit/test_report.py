"""Pages and charts of the reports: what is drawn is what the numbers say, and text stays text."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from atomica.errors import SpecError
from atomica.evaluation.statistics import auroc, compare, intervals
from atomica.heads import available, head_class
from atomica.report.page import FIRST, ROWS, Column, Page
from atomica.report.predictions import PLOTS, Answers, _curve_steps, plot, show, unknown
from atomica.report.svg import Chart, script_json, ticks
from atomica.report.training import _joined

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028"


class Seen(HTMLParser):
    """Tags with attributes, and the text of scripts that hold data."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.data, self._inside = [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_data(self, data):
        if self._inside:
            self.data.append(data)
            self._inside = False


def hostile_page():
    page = Page(HOSTILE, HOSTILE, HOSTILE, status=HOSTILE)
    page.section(HOSTILE, HOSTILE)
    page.tiles([(HOSTILE, HOSTILE, HOSTILE)])
    page.facts([(HOSTILE, HOSTILE)])
    page.listing([HOSTILE])
    page.subtitle(HOSTILE)
    page.code(HOSTILE, HOSTILE)
    page.matrix([HOSTILE, "b"], [[1, 2], [3, 4]], HOSTILE)
    page.small_table([HOSTILE], [[HOSTILE]], HOSTILE)
    page.table([Column(HOSTILE, [HOSTILE], HOSTILE)], HOSTILE, name=HOSTILE, whole=HOSTILE, pick=HOSTILE)
    chart = Chart(HOSTILE, HOSTILE, HOSTILE, HOSTILE, note=HOSTILE)
    chart.points(HOSTILE, [0, 1], [0, 1], [HOSTILE, HOSTILE])
    chart.line("other", [0, 1], [0, 1])
    page.charts([chart])
    return page.html()


def test_text_from_data_stays_text():
    html = hostile_page()
    seen = Seen(html)
    assert not [tag for tag in seen.tags if tag[0] == "img" or any(key.startswith("on") for key in tag[1])]
    scripts = [attributes for tag, attributes in seen.tags if tag == "script"]
    assert len(scripts) == 3  # the chart's points, the table's rows, and the page's own
    assert HOSTILE in json.loads(seen.data[0])["rows"][0]
    assert json.loads(seen.data[1])[0][2] == HOSTILE


def test_nothing_is_fetched_and_only_own_scripts_run():
    html = hostile_page()
    assert "default-src 'none'" in html
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'\"", html)
    for tag, attributes in Seen(html).tags:
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith("#")


def test_a_page_can_be_read_aloud():
    seen = Seen(hostile_page())
    names = {attributes["id"] for _, attributes in seen.tags if "id" in attributes}
    for tag, attributes in seen.tags:
        for key in ("aria-labelledby", "aria-controls"):
            assert set(attributes.get(key, "").split()) <= names, (tag, attributes)
        if tag == "svg":
            assert attributes["role"] == "img"
    assert ("html", {"lang": "en"}) in seen.tags


def test_tables_state_what_they_leave_out():
    page = Page("t", "k")
    page.section("s")
    page.table([Column("n", list(range(ROWS + 1)))], "numbers", name="n.csv", whole="all.csv")
    html = page.html()
    assert f"the first {ROWS:,} of {ROWS + 1:,}; all of them are in all.csv" in html
    assert len(json.loads(Seen(html).data[0])["rows"]) == ROWS
    assert html.count("<tr>") == FIRST + 1


def test_numbers_that_are_none_are_null():
    assert json.loads(script_json([float("nan"), float("inf"), {"a": (1.5, None)}])) == [
        None,
        None,
        {"a": [1.5, None]},
    ]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 1e6), (1e-9, 3e-9), (5, 5), (0.69, 0.693), (-1e-3, 0)]
)
def test_ticks_are_within_and_not_too_many(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 9
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)
    assert len(set(found)) == len(found)


def test_a_line_is_broken_where_there_is_no_value():
    chart = Chart("t", "x", "y", "alt", x_range=(0, 3), y_range=(0, 1))
    chart.line("", [0, 1, 2, 3], [0.0, float("nan"), 0.5, 1.0])
    drawn = re.search(r'class="line c0" d="([^"]+)"', chart.render()).group(1)
    assert re.findall("[ML]", drawn) == ["M", "M", "L"]


@pytest.mark.parametrize("values", [[], [float("nan")], [2.0], [0.0, 0.0]])
def test_charts_of_hardly_any_values_are_drawn(values):
    chart = Chart("t", "x", "y", "alt")
    chart.line("", values, values)
    assert "nan" not in chart.render().lower()


def test_long_curves_keep_their_mean():
    x = list(range(10_001))
    joined_x, joined_y, size = _joined(x, [float(value % 7) for value in x])
    assert size == 26
    assert len(joined_x) == 385
    assert np.mean(joined_y) == pytest.approx(3.0, abs=0.01)


def test_roc_curve_has_the_area_it_states():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 2, 200)
    scores = np.round(labels * 0.4 + generator.random(200), 2)  # with ties
    found, wrong = _curve_steps(labels, scores)
    x, y = np.append(0, wrong) / (labels == 0).sum(), np.append(0, found) / labels.sum()
    assert np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) == pytest.approx(auroc(labels, scores))


FILE = "predictions.csv"
HEADS = {"probability": "binary", "classes": "multiclass", "number": "regression"}


def answers(kind, count):
    generator = np.random.default_rng(count)
    ids = [f"{HOSTILE}{index}" for index in range(count)]
    if kind == "number":
        targets = generator.normal(6, 2, count)
        return Answers(
            ids,
            [f"{t:.2f}" for t in targets],
            targets,
            targets + generator.normal(0, 1, count),
            [],
            "pKd",
            FILE,
        )
    classes = ["no", "yes"] if kind == "probability" else ["a", HOSTILE, "c"]
    targets = generator.integers(0, len(classes), count)
    predicted = generator.random((count, len(classes)))
    predicted /= predicted.sum(axis=1, keepdims=True)
    texts = [classes[t] for t in targets]
    if kind == "probability":
        return Answers(ids, texts, targets, predicted[:, 1], classes, "label", FILE, baseline=predicted[:, 0])
    return Answers(ids, texts, targets, predicted, classes, "label", FILE)


@pytest.mark.parametrize("count", [1, 3, 60])
@pytest.mark.parametrize(
    ("kind", "pictures"),
    [
        ("probability", ["Calibration"]),
        ("classes", ["By class", "Calibration"]),
        ("number", ["measured", "Errors"]),
    ],
)
def test_each_kind_of_answer_has_its_pictures(kind, pictures, count):
    page = Page("t", "k")
    page.section("s")
    given = answers(kind, count)
    show(page, given, head_class(HEADS[kind]).plots)
    html = page.html()
    assert all(picture in html for picture in pictures)
    assert ("ROC curve" in html) == (kind == "probability" and len(set(given.targets)) == 2)
    assert "<img" not in html
    table = json.loads(Seen(html).data[-1])
    assert len(table["rows"]) == count
    worst = {"probability": "of the label", "classes": "of the label", "number": "size of error"}[kind]
    column = [row[table["columns"].index(worst)] for row in table["rows"]]
    assert column == sorted(column, reverse=kind == "number")


def test_heads_name_plots_there_are():
    for kind in available():
        head = head_class(kind)
        assert unknown(head.plots) == []
        assert bool(head.plots) == (head.targets == "labels"), kind


def test_a_plot_that_does_not_fit_is_replaced_by_a_note():
    """Numbers that happen to lie between 0 and 1 are not taken for probabilities, unless the head says so."""
    given = answers("number", 20)
    page = Page("t", "k")
    page.section("s")
    show(page, given, ("roc", "scatter", "scattr"))
    html = page.html()
    assert "No plot &#x27;roc&#x27;: it shows a probability of yes" in html
    assert "did you mean &quot;scatter&quot;?" in html
    assert "Predicted against measured" in html
    both = Answers(["a", "b"], ["0", "1"], np.array([0.0, 1.0]), np.array([0.2, 0.7]), [], "share", FILE)
    page = Page("t", "k")
    page.section("s")
    show(page, both, head_class("regression").plots)
    assert "ROC" not in page.html()
    assert "Predicted against measured" in page.html()


def test_a_plot_of_another_package_joins_by_name(monkeypatch):
    monkeypatch.setattr("atomica.report.predictions.PLOTS", dict(PLOTS))
    with pytest.raises(SpecError, match="plot 'roc' is taken by atomica.report.predictions"):
        plot("roc", "mine", "yes-no")(lambda page, answers: None)
    plot("mine", "a note", "numbers")(lambda page, answers: page.text(f"seen {len(answers.ids)}"))
    page = Page("t", "k")
    show(page, answers("number", 7), ("mine",))
    assert "seen 7" in page.html()


def test_intervals_agree_with_those_of_the_comparison():
    from atomica.nn.equivariant import EncoderConfig

    generator = np.random.default_rng(5)
    labels = generator.integers(0, 2, 80)
    scores = np.clip(labels * 0.3 + generator.random(80) * 0.7, 0, 1)
    head = head_class("binary")
    found = intervals(head(head.Config(), EncoderConfig()).metrics(), labels, scores, seed=1, resamples=100)
    other = compare(labels, scores, 1 - scores, seed=2)["model"]
    assert {"auroc", "auprc", "accuracy", "mcc"} <= set(found)
    for name in ("auroc", "auprc"):
        assert found[name]["low"] == pytest.approx(other[name]["low"], abs=0.05)
        assert found[name]["high"] == pytest.approx(other[name]["high"], abs=0.05)
    assert intervals(None or {}, np.zeros(4, dtype=int), scores[:4], seed=0) == {}
