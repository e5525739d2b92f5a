"""Pages and charts of the reports: what is drawn is what the numbers say, and text stays text."""

import csv
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atomica.analysis.bfactors import STRUCTURES, stems
from atomica.errors import SpecError
from atomica.evaluation.statistics import compare, intervals
from atomica.files import ENVIRONMENT, EVALUATION, MEMBERS, METRICS, PREDICTIONS, REPORT, RESULT, SPEC
from atomica.heads import available, head_class
from atomica.jobs import JOBS
from atomica.report import sweeps
from atomica.report.__main__ import main as report
from atomica.report.page import FIRST, ROWS, Column, Page
from atomica.report.predictions import PLOTS, Answers, plot, show, unknown, wilson
from atomica.report.svg import Chart, script_json, ticks
from atomica.report.training import joined
from atomica.report.viewer import Structure, viewer
from atomica.spec import dump

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028"


class Seen(HTMLParser):
    """Tags with attributes, the text of scripts that hold data, and all that a reader sees."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.data, self.text, self._inside = [], [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_data(self, data):
        if self._inside:
            self.data.append(data)
            self._inside = False
        else:
            self.text += data


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


def test_named_columns_are_drawn_whole_and_named_beneath():
    chart = Chart("t", "x", "y", "alt", x_names=("few", HOSTILE), y_range=(0, 4))
    chart.columns("", [0, 1], [1.0, 3.0], ["", ""], colour="c0")
    drawn = chart.render()
    left, right = (
        float(one)
        for one in re.search(r'<clipPath[^>]*><rect x="([\d.]+)"[^>]*width="([\d.]+)"', drawn).groups()
    )
    path = re.search(r'class="bars c0" d="([^"]*)"', drawn)[1]
    places = [float(one) for one in re.findall(r"[MH]([\d.]+)", path)]
    assert left < min(places)
    assert max(places) < left + right
    widths = [places[1] - places[0], places[3] - places[2]]
    assert widths[0] == pytest.approx(widths[1], abs=0.2)
    names = re.findall(r'<text x="([\d.]+)"[^>]*middle">([^<]*)</text>', drawn)
    assert [float(at) for at, name in names if name == "few"] == [pytest.approx(sum(places[:2]) / 2, abs=0.2)]
    assert "<script>alert" not in drawn
    many = Chart("t", "x", "y", "alt", x_names=[f"class {n}" for n in range(99)])
    many.columns("", range(99), [1.0] * 99, [""] * 99, colour="c0")
    assert "class 1" not in many.render()


def test_without_a_highest_value_each_structure_has_its_own():
    page = Page("t", "k")
    page.section("s")
    high = [
        Structure(str(top), "END", "pdb", [("A", 1, "", 0.0), ("A", 2, "", top)], {}) for top in (0.01, 5.0)
    ]
    viewer(page, high, "label", 0.0, None, {})
    steps = [
        [one[2] for one in data["scores"]] for data in page._sections[0].pieces[-1][1]["data"]["structures"]
    ]
    assert steps == [[0, 8], [0, 8]]
    assert "the highest of the structure" in page.html()


@pytest.mark.parametrize("values", [[], [float("nan")], [2.0], [0.0, 0.0]])
def test_charts_of_hardly_any_values_are_drawn(values):
    chart = Chart("t", "x", "y", "alt")
    chart.line("", values, values)
    assert "nan" not in chart.render().lower()


def test_long_curves_keep_their_mean():
    x = list(range(10_001))
    joined_x, joined_y, size = joined(x, [float(value % 7) for value in x])
    assert size == 26
    assert len(joined_x) == 385
    assert np.mean(joined_y) == pytest.approx(3.0, abs=0.01)


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


class Drawn(Page):
    """A page that remembers its charts."""

    def charts(self, charts, *, large=False):
        self.seen = [*getattr(self, "seen", []), *charts]
        super().charts(charts, large=large)


def test_curves_have_a_point_for_every_threshold():
    given = answers("probability", 200)
    given = replace(given, predicted=np.round(given.predicted, 2))  # with ties
    page = Drawn("t", "k")
    show(page, given, ("roc", "precision_recall"))
    positives, negatives = given.targets.sum(), (1 - given.targets).sum()
    for name, scores in (("this model", given.predicted), ("best baseline", given.baseline)):
        roc, both = [(0.0, 0.0)], []
        for threshold in sorted(set(scores), reverse=True):
            called = given.targets[scores >= threshold]
            roc.append(((1 - called).sum() / negatives, called.sum() / positives))
            both.append((called.sum() / positives, called.mean()))
        for chart, wanted in zip(page.seen, (roc, both), strict=True):
            line = next(one for one in chart.series if one.name == name)
            np.testing.assert_allclose(list(zip(line.x, line.y, strict=True)), wanted, rtol=1e-12)


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (0, 50), (3, 10), (499, 1000)])
def test_intervals_of_shares_are_those_of_wilson(hits, count):
    """Solved for the shares p that lie 1.96 standard errors, those of p, from what was observed."""
    z = 1.959963984540054
    roots = np.roots([count + z * z, -(2 * hits + z * z), hits * hits / count])
    np.testing.assert_allclose(wilson(hits, count), sorted(roots), atol=1e-9)


def test_heads_name_plots_there_are():
    for kind in available():
        head = head_class(kind)
        assert unknown(head.plots) == []
        assert bool(head.plots) == (head.targets in ("labels", "block_labels")), kind


def test_a_plot_that_does_not_fit_is_replaced_by_a_note():
    """Numbers that happen to lie between 0 and 1 are not taken for probabilities, unless the head says so."""
    given = answers("number", 20)
    page = Page("t", "k")
    page.section("s")
    show(page, given, ("roc", "scatter", "scattr"))
    html = page.html()
    assert "No plot 'roc': it shows a probability of yes" in unescape(html)
    assert 'did you mean "scatter"?' in unescape(html)
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
    other = compare(labels, scores, {"other": 1 - scores}, seed=2)["model"]
    assert {"auroc", "auprc", "accuracy", "mcc"} <= set(found)
    for name in ("auroc", "auprc"):
        assert found[name]["low"] == pytest.approx(other[name]["low"], abs=0.05)
        assert found[name]["high"] == pytest.approx(other[name]["high"], abs=0.05)
    assert intervals(None or {}, np.zeros(4, dtype=int), scores[:4], seed=0) == {}


# ------------------------------------------------------------------------------------- the pages of whole folders


TAIL = "</title></style></textarea><img src=x onerror=alert(3)>\"'&"


def table_of(folder, name, **columns):
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return f"{name}.parquet"


def csv_of(folder, name, *rows):
    with (folder / name).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return name


def left_by_embed(folder):
    labels = pa.array([[(HOSTILE, f"{HOSTILE}{i}")] for i in range(4)], pa.map_(pa.utf8(), pa.utf8()))
    columns = {name: [f"{HOSTILE}{i}" for i in range(4)] for name in ("id", "modality", "split")}
    sizes = {name: [1, 2, 3, 4] for name in ("blocks", "atoms")}
    vectors = np.random.default_rng(0).random((4, 3)).tolist()
    return {"complexes": table_of(folder, "complexes", **columns, labels=labels, **sizes, embedding=vectors)}


def left_by_network(folder):
    names = [f"{HOSTILE}{i}" for i in range(4)]
    nodes = table_of(
        folder,
        "nodes",
        **dict.fromkeys(("modality", "id", "entity"), names),
        degree=[1, 1, 1, 1],
        component=[0, 0, 1, 1],
        groups=[[HOSTILE], [], [], [HOSTILE, "b"]],
    )
    edges = table_of(folder, "edges", source=[names[0]], target=[names[1]], cosine=[0.5])
    left_by_embed(folder)
    listed = csv_of(folder, "groups.csv", ("modality", "group", "p"), (HOSTILE, HOSTILE, HOSTILE))
    parts = csv_of(folder, "components.csv", ("modality", "component", "ids"), (HOSTILE, 0, HOSTILE))
    return {"nodes": nodes, "edges": edges, "groups": listed, "components": parts}


def left_by_annotate(folder):
    head = ("id", "source_path", "classes", f"P({HOSTILE})")
    return {"pockets": csv_of(folder, f"{TAIL.replace('/', '')}.csv", head, (HOSTILE, HOSTILE, HOSTILE, 0.5))}


def left_by_score(folder):
    (folder / STRUCTURES).mkdir()
    line = "{:6}{:5} {:4} ALA {}   1    {:8.3f}   0.000   0.000  1.00  0.00           C\n"
    atoms = "".join(line.format("ATOM", i + 1, "CA", chain, 3.8 * i) for i, chain in enumerate("AB"))
    (stem,) = stems([HOSTILE], [0])
    (folder / STRUCTURES / f"{stem}.pdb").write_text(f"REMARK {TAIL}\n{atoms}END\n")
    same = {"row": [0, 0], "id": [HOSTILE] * 2, "component": [HOSTILE] * 2, "icode": ["", TAIL]}
    values = {"segment": [0, 1], "chain": ["A", "B"], "resnum": [1, 1], "score": [0.9, 0.8]}
    return {"scores": table_of(folder, "scores", **same, **values)}


def left_by_evaluate(folder):
    config = {"positive": HOSTILE, "negative": TAIL}
    metrics = {"auroc": 0.5, HOSTILE: 0.25}
    entry = {"kind": "binary", "config": config, "label": HOSTILE, "complexes": 2, "metrics": metrics}
    gone = {**entry, "kind": HOSTILE}
    evaluation = {"split": HOSTILE, "data": HOSTILE, "heads": {HOSTILE.replace("/", ""): entry, TAIL: gone}}
    (folder / EVALUATION).write_text(json.dumps(evaluation))
    rows = ((f"{HOSTILE}0", HOSTILE, 0.7), (f"{HOSTILE}1", TAIL, 0.4))
    csv_of(folder, PREDICTIONS, ("id", "label", "probability"), *rows)
    return {"evaluation": EVALUATION}


def left_by_probe(folder):
    arm = {"models": 2, "single": {"auroc": {"mean": 0.5, "sd": 0.1}}, "ensemble": {"auroc": 0.5}}
    test = {"verdict": HOSTILE, "mcnemar": 0.5}
    entry = {"kind": "multiclass", "config": {"classes": [HOSTILE, TAIL]}, "label": HOSTILE, "complexes": 2}
    few = {"100": {HOSTILE: arm["single"], "difference": {HOSTILE: test}}}
    entry |= {"metrics": {"auroc": 0.5}, "arms": {HOSTILE: arm}, "tests": {HOSTILE: test}, "curve": few}
    evaluation = {"split": HOSTILE, "data": HOSTILE, "heads": {"probe": entry}}
    (folder / EVALUATION).write_text(json.dumps(evaluation))
    rows = ((f"{HOSTILE}0", HOSTILE, "[0.5, 0.5]"), (f"{HOSTILE}1", TAIL, "[0.1, 0.9]"))
    csv_of(folder, PREDICTIONS, ("id", "label", "prediction"), *rows)
    return {"evaluation": EVALUATION}


def left_by_predict(folder):
    same = {"row": [0, 1], "id": [f"{HOSTILE}0", TAIL], "partner0": [HOSTILE] * 2, "partner1": [TAIL] * 2}
    said = {"predicted": [HOSTILE, TAIL], "probability": [0.2, 0.7], "nearest_training": [HOSTILE] * 2}
    blocks = {"block": [1, 2], "chain": [HOSTILE, TAIL], "resnum": [1, 2], "icode": ["", TAIL]}
    blocks |= {"component": [HOSTILE] * 2, "probability": [0.1, 0.9], "row": [0, 0], "id": [HOSTILE] * 2}
    tables = {"predictions": table_of(folder, "predictions", **same, **said)}
    return {**tables, "blocks": table_of(folder, "blocks", **blocks)}


LEFT = {
    "predict": left_by_predict,
    "probe": left_by_probe,
    "embed": left_by_embed,
    "network": left_by_network,
    "annotate": left_by_annotate,
    "score": left_by_score,
    "evaluate": left_by_evaluate,
}


def leave(folder, name):
    """Leave in a folder what a job, a training or a sweep does, with markup wherever the text is somebody else's."""
    run = {"name": HOSTILE, "job": HOSTILE}
    (folder / SPEC).write_text(dump([("run", run), ("network", {"embeddings": str(folder)})]))
    if name == "train":
        left_by_evaluate(folder)
        records = [{"event": "epoch", "epoch": i, "step": i, f"valid_{HOSTILE}": 0.5} for i in (1, 2)]
        records += [
            {"event": "step", "step": i, "loss": 1.0, f"learning_rate/{HOSTILE}": 0.1} for i in (1, 2)
        ]
        (folder / METRICS).write_text("".join(json.dumps(one) + "\n" for one in records))
    elif name == "members":
        left_by_evaluate(folder)
        evaluation = json.loads((folder / EVALUATION).read_text())
        more = {"single": {HOSTILE: {"mean": 0.5, "sd": 0.1}}, "seeds": {HOSTILE: {HOSTILE: 0.5}}}
        for entry in evaluation["heads"].values():
            entry |= {**more, "single_verdict": HOSTILE}
        (folder / EVALUATION).write_text(json.dumps(evaluation))
        member = {"seed": 0, "fold": None, "state": "failed", "problem": HOSTILE}
        (folder / MEMBERS).write_text(json.dumps({"members": {HOSTILE: member}}))
        (folder / "member.toml").write_text(dump([("run", run)]))
    elif name == "sweep":
        key = f"train.{HOSTILE}"
        plan = {"sweep": {"method": HOSTILE, "keys": {key: [HOSTILE]}}, "monitor": HOSTILE, "mode": "max"}
        (folder / sweeps.PLAN).write_text(json.dumps(plan))
        (folder / sweeps.BASE).write_text(dump([("run", run)]))
        head = ("trial", "state", f"valid {HOSTILE}", key, "folder", "problem")
        csv_of(folder, sweeps.TABLE, head, (1, "done", 0.5, HOSTILE, TAIL, HOSTILE))
    else:
        left = {"job": name, "tables": LEFT[name](folder), "seconds": 1.0, "failed": 1}
        rules = {HOSTILE: {"threshold": 0.5, "rule": HOSTILE}}
        figures = {HOSTILE: HOSTILE, "thresholds": rules, "called": {}}
        left |= {"figures": figures, "overview": [f"run     {HOSTILE}"]}
        (folder / RESULT).write_text(json.dumps(left))
    start = {
        "started": HOSTILE,
        "overview": [HOSTILE],
        "versions": {HOSTILE: HOSTILE},
        "hardware": {HOSTILE: TAIL},
    }
    (folder / ENVIRONMENT).write_text(json.dumps([start]))


@pytest.mark.parametrize("name", [*JOBS, "sweep", "members"])
def test_markup_of_others_is_text_on_every_page(tmp_path, name):
    """In ids, labels, classes, file names, settings: no tag, no attribute, no script comes of it."""
    leave(tmp_path, name)
    assert report([str(tmp_path)]) == 0
    html = (tmp_path / REPORT).read_text()
    seen = Seen(html)
    assert not [
        tag for tag, attributes in seen.tags if tag == "img" or any(k.startswith("on") for k in attributes)
    ]
    runs = [attributes for tag, attributes in seen.tags if tag == "script" and "type" not in attributes]
    assert len(runs) == (2 if name == "score" else 1)
    assert len(re.findall(r"<script>", html)) == len(runs)
    assert seen.text.count(HOSTILE) > 5
    assert all(json.loads(data) is not None for data in seen.data)


def test_every_job_has_the_page_that_is_found_by_its_name():
    from atomica.jobs.job import kind
    from atomica.report.__main__ import page_of

    pages = {name: kind(name).page for name in JOBS if name != "train"}
    assert {name: page_of(name) for name in pages} == pages


def test_a_folder_of_a_job_that_nobody_knows_is_refused(tmp_path, capsys):
    (tmp_path / RESULT).write_text(json.dumps({"job": "divine", "tables": {}, "figures": {}}))
    assert report([str(tmp_path)]) == 2
    assert "its job is called 'divine', for which this version has no report" in capsys.readouterr().err
