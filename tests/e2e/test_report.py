"""Reports of real runs, opened in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from atomica.files import REPORT
from atomica.jobs import JOBS
from atomica.report import sweeps, training
from atomica.report.__main__ import main as report_command
from atomica.runner import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium, driven by the driver that is installed beside it; nothing is downloaded."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.skip("no Chromium: install chromium and chromium-driver to open the reports in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-background-networking",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
        # Structures are drawn by WebGL, without a GPU.
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
    ):
        options.add_argument(argument)
    # The browser's first tab is else a page of its own, whose requests come between those of the report.
    first = {"session.restore_on_startup": 4, "session.startup_urls": ["about:blank"]}
    options.add_experimental_option("prefs", first)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as started:
        yield started


@pytest.fixture
def browse(browser):
    """Opens a page and returns what it holds after its scripts ran, and when `shown` is true of the browser.

    Fails if the page logs anything to the console or asks for anything beyond itself.
    """

    def run(page, *, width=1280, shown=lambda _: True):
        size = {"width": width, "height": 1100, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(page.as_uri())
        WebDriverWait(browser, 120).until(shown)
        # NGL, which is loaded from a blob, tells what it makes of a structure; the driver how fast it is.
        known = ("blob:", "GL Driver Message")
        told = [entry["message"] for entry in browser.get_log("browser")]
        assert not [text for text in told if not any(k in text for k in known)]
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = {
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        }
        assert page.as_uri() in asked
        # chrome: what the browser is made of, which no page of a file can ask for.
        own = ("data:", "blob:", "chrome:", "chrome-untrusted:")
        assert {url for url in asked if not url.startswith(own)} == {page.as_uri()}
        return browser.page_source

    return run


@pytest.fixture(scope="module")
def finished(tiny_set, tmp_path_factory):
    """The folder of a small training run."""
    out = tmp_path_factory.mktemp("run") / "out"
    settings = [
        f"run.out={out}",
        f"data.train={tiny_set}",
        "head.0.positive=yes",
        "head.0.negative=no",
        "train.epochs=3",
        "device.kind=cpu",
        "device.threads=1",
        "data.batch_blocks=100",
        "data.max_item_blocks=100",
        "log.every_steps=1",
        "log.tensorboard=false",
    ]
    arguments = [part for one in settings for part in ("--set", one)]
    assert main([str(ROOT / "runs" / "ligand.toml"), *arguments]) == 0
    return out


def test_a_run_ends_with_a_report(finished):
    report = (finished / REPORT).read_text()
    for shown in (
        "ROC curve",
        "Calibration",
        "test auroc",
        "Learning rate",
        "95% interval",
        "segment0",
        "torch",
    ):
        assert shown in report, shown
    assert len(report) < 1_000_000


def test_the_report_opens_in_a_browser(finished, browse):
    page = browse(finished / REPORT)
    assert "1–12 of 12" in page  # the table's script ran
    assert 'class="tip"' in page  # and that of the charts


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_lies_beyond_the_edge(finished, browse, width, tmp_path):
    """A copy of the page measures itself; its policy would not let it."""
    text = (finished / REPORT).read_text()
    text = re.sub(r"<meta http-equiv=[^>]+>", "", text)
    wide = (
        "<script>addEventListener('load', () => { const w = document.documentElement.clientWidth;"
        "const over = [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg, pre')"
        "&& e.getBoundingClientRect().right > w + 1).map(e => e.tagName + '.' + e.className);"
        "const fits = document.documentElement.scrollWidth <= w && !over.length;"
        "document.title = fits ? 'fits' : 'over ' + over; })</script>"
    )
    copy = tmp_path / "copy.html"
    copy.write_text(text.replace("</body>", wide + "</body>"))
    page = browse(copy, width=width)
    assert re.search("<title>(.*?)</title>", page).group(1) == "fits"


def test_a_report_is_made_again_without_the_head(finished, tmp_path):
    """As after its package is gone: metrics as they were, and a note in place of the plots."""
    folder = shutil.copytree(finished, tmp_path / "out")
    evaluation = (folder / "evaluation.json").read_text()
    (folder / "evaluation.json").write_text(evaluation.replace('"kind": "binary"', '"kind": "gone"'))
    training.write(folder, status="done")
    report = (folder / REPORT).read_text()
    assert "unknown head kind 'gone'" in unescape(report)
    assert "ROC curve" not in report
    assert "95% interval" in report


def test_an_interrupted_run_has_a_report(finished, tmp_path):
    """As from one that was stopped: no evaluation, the last line cut off."""
    for name in ("metrics.jsonl", "spec.toml", "environment.json"):
        shutil.copy(finished / name, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines[:5]) + '\n{"event": "st')
    with pytest.raises(KeyboardInterrupt), training.reported(tmp_path):
        raise KeyboardInterrupt
    report = (tmp_path / REPORT).read_text()
    assert "Go on with --resume" in report
    assert "Loss" in report
    assert "ROC" not in report


def test_a_failed_run_says_why_in_its_report(tmp_path):
    with pytest.raises(ZeroDivisionError), training.reported(tmp_path):
        _ = 1 / 0
    report = (tmp_path / REPORT).read_text()
    assert "ZeroDivisionError: division by zero" in report


def test_a_hostile_run_shows_as_text(finished, browse, tmp_path):
    folder = tmp_path / "hostile"
    shutil.copytree(finished, folder)
    rows = (folder / "predictions.csv").read_text().splitlines()
    evil = "</script><img src=x onerror=document.title='ran'><script>document.title='ran'</script>"
    rows[1] = f'"{evil}"' + rows[1][rows[1].index(",") :]
    (folder / "predictions.csv").write_text("\n".join(rows) + "\n")
    training.write(folder, status="failed", problem=evil)
    training.write(folder, status="done", problem=evil)
    page = browse(folder / REPORT)
    assert "<title>ran" not in page
    assert "<img" not in page
    assert page.count("&lt;/script&gt;&lt;img") == 2  # the problem, and the table's row


# ------------------------------------------------------------------------------------------ jobs after training


def job(folder, name, sections, out=""):
    """Run a job; returns its folder, which has its name unless another is given."""
    out = folder / (out or name)
    lines = [f'[run]\nname = "{name}"\njob = "{name}"\nout = "{out}"\n', *sections]
    lines.append('[device]\nkind = "cpu"\nthreads = 1\n')
    (folder / f"{name}.toml").write_text("\n".join(lines))
    assert main([str(folder / f"{name}.toml")]) == 0
    return out


@pytest.fixture(scope="module")
def jobs(finished, tiny_set, tmp_path_factory):
    """Folders of a job of each kind, with the model of the small run."""
    folder = tmp_path_factory.mktemp("jobs")
    weights = finished / "checkpoints" / "best"
    data = f'[data]\nsource = "{tiny_set}"\nsplit = "test"\n'
    both = data + 'input = "complex"\nforce = true\n'  # the run was of one partner alone
    model = f'[model]\nweights = "{weights}"\n'
    return {
        "embed": job(folder, "embed", [data.replace('"test"', '""'), model]),
        "score": job(folder, "score", [both, model, f'[score]\nroot = "{tiny_set.parent}"\n']),
        "score without files": job(folder, "score", [both, model], "alone"),
        "annotate": job(
            folder,
            "annotate",
            [data, f'[annotate.members]\nyes = ["{weights}"]\n[annotate.thresholds]\nyes = 0.5\n'],
        ),
        "predict": job(folder, "predict", [data, model]),
        "evaluate": job(folder, "evaluate", [data, model, '[evaluate]\nlabel = "label"\n']),
        "probe": job(folder, "probe", [data.replace('split = "test"\n', ""), model, "[probe]\nseeds = 2\n"]),
        "network": job(folder, "network", [f'[network]\nembeddings = "{folder / "embed"}"\nneighbors = 3\n']),
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("embed", ["coloured by label", "nearest", "c00"]),
        ("score", ["Scores along the sequence", "contacts within 4.5", 'id="ngl"', "partner 0, chain"]),
        ("annotate", ["threshold", "P(yes)", "mean probability of yes"]),
        ("predict", ["far from all that was learnt from", "nearest_training", "partner0"]),
        ("evaluate", ["ROC curve", "Calibration", "95% interval", "The worst predictions first"]),
        ("probe", ["random weights, ensemble of 2", "residue counts", "McNemar", "Complexes by true"]),
        ("network", ["Components", "coloured by label", "Similarity"]),
    ],
)
def test_a_job_ends_with_a_report(jobs, browse, name, shown):
    report = jobs[name] / REPORT
    text = report.read_text()
    for one in shown:
        assert one in text, one
    assert len(text) < (1_500_000 if name == "score" else 1_000_000)
    if name != "score":  # which the next test opens
        page = browse(report)
        assert re.search(r"1–\d+ of \d+", page)


@pytest.mark.parametrize("name", sorted(set(JOBS) - {"train"}))
def test_the_report_of_a_job_is_made_again_from_its_folder(jobs, name, capsys):
    """The job hands its page in, the command finds it by the job's name; but for the charts' ids both are the same."""
    path = jobs[name] / REPORT
    before = path.read_text()
    path.unlink()
    assert report_command([str(jobs[name])]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    again = path.read_text()
    assert re.sub(r"chart-\d+", "", again) == re.sub(r"chart-\d+", "", before)


def test_what_is_no_run_has_no_report(tmp_path, capsys):
    assert report_command([str(tmp_path)]) == 2
    assert "neither a training run (metrics.jsonl), nor a job that is done" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["score", "score without files"])
def test_the_structure_is_drawn(name, jobs, browse, tmp_path):
    """A picture of the viewer gets pixels of the colours of high scores."""
    text = (jobs[name] / REPORT).read_text()
    alone = tmp_path / "score.html"  # the charts above it are left out, so that the viewer is in the picture
    alone.write_text(re.sub(r'<div class="wide">.*?</figure></div>', "", text, flags=re.S))

    def drawn(browser):
        if not browser.find_elements("css selector", ".viewer[data-ready]"):
            return False
        picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        pixels = picture.resize((450, 550)).tobytes()
        return (
            sum(pixels[i] > pixels[i + 1] + 40 > pixels[i + 2] + 50 for i in range(0, len(pixels), 3)) > 300
        )

    browse(alone, width=900, shown=drawn)


# ------------------------------------------------------------------------------------------------- sweeps


HEAD = "trial,state,valid auroc,epochs,seconds,train.learning_rate,train.schedule,folder,problem"


def swept(folder, rows):
    """What a sweep leaves in its folder: (trial, state, value, learning rate, schedule, problem) of each trial."""
    keys = {
        "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True, "step": None},
        "train.schedule": ['{kind = "constant"}', '{kind = "cosine"}'],
    }
    plan = {"sweep": {"method": "tpe", "keys": keys}, "monitor": "auroc", "mode": "max"}
    (folder / "sweep.json").write_text(json.dumps(plan))
    (folder / "trial.toml").write_text('[run]\nname = "<b>many</b>"\n')
    with (folder / "trials.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(HEAD.split(","))
        for trial, state, value, rate, kind, problem in rows:
            place = f"trials/{trial:04}"
            writer.writerow([trial, state, value, 2, 9.5, rate, keys["train.schedule"][kind], place, problem])
            (folder / place).mkdir(parents=True)
            records = [
                {"event": "epoch", "epoch": epoch, "valid_auroc": 0.4 + epoch / 10} for epoch in (1, 2)
            ]
            (folder / place / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return folder


def test_the_report_of_a_sweep(tmp_path, browse, capsys):
    rows = [
        (3, "done", 0.9, 1e-3, 1, ""),
        (1, "done", 0.7, 1e-2, 0, ""),
        (2, "pruned", "", 1e-4, 0, ""),
        (4, "failed", "", 5e-3, 1, "the loss is <nan> in step 7"),
    ]
    swept(tmp_path, rows)
    assert report_command([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / REPORT)
    page = browse(tmp_path / REPORT)
    assert "1–4 of 4" in page
    assert "&lt;b&gt;many&lt;/b&gt;" in page
    assert "the loss is &lt;nan&gt; in step 7" in page
    assert "trial 3, train.learning_rate = 0.001: 0.9" in page
    assert 'trial 1, train.schedule = {kind = \\"constant\\"}: 0.7' in page
    assert "trial 2, pruned, epoch 2: 0.6" in page


@pytest.mark.parametrize("rows", [[], [(1, "running", "", 1e-3, 0, "")], [(1, "failed", "", 1e-3, 0, "why")]])
def test_the_report_of_a_sweep_without_results(tmp_path, rows):
    page = sweeps.write(swept(tmp_path, rows)).read_text()
    assert "best valid auroc" not in page
    assert ("status done" in page) == any(row[1] == "failed" for row in rows)
