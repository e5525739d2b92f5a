"""Reports of real runs, opened in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from atomica.report import training
from atomica.runner import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def browse(tmp_path_factory):
    """Opens a page in headless Chromium; returns what it holds after its scripts ran, or a picture of it.

    Fails if the page logs anything to the console or asks for anything beyond itself.
    """
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium: install the package chromium to open the reports in a browser")

    def run(page, *options):
        folder = tmp_path_factory.mktemp("browser")
        arguments = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-background-networking"]
        arguments += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=8000"]
        arguments += ["--enable-logging=stderr", f"--log-net-log={folder / 'net.json'}", *options]
        done = subprocess.run(
            [found, *arguments, page.as_uri()], capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0
        log = done.stderr.decode(errors="replace")
        assert not re.search(r"CONSOLE", log), log
        asked = re.findall(
            r'"url":"((?:https?|file|wss?):[^"]+)"', (folder / "net.json").read_text(errors="replace")
        )
        assert {url for url in asked if "file:" in url} <= {page.as_uri()}
        return done.stdout.decode(), asked

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
    report = (finished / training.REPORT).read_text()
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
    page, _ = browse(finished / training.REPORT, "--dump-dom")
    assert "1–12 of 12" in page  # the table's script ran
    assert 'class="tip"' in page  # and that of the charts


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_lies_beyond_the_edge(finished, browse, width, tmp_path):
    """A copy of the page measures itself; its policy would not let it."""
    text = (finished / training.REPORT).read_text()
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
    page, _ = browse(copy, "--dump-dom", f"--window-size={width},900")
    assert re.search("<title>(.*?)</title>", page).group(1) == "fits"


def test_an_interrupted_run_has_a_report(finished, tmp_path):
    """As from one that was stopped: no evaluation, the last line cut off."""
    for name in ("metrics.jsonl", "spec.toml", "environment.json"):
        shutil.copy(finished / name, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines[:5]) + '\n{"event": "st')
    with pytest.raises(KeyboardInterrupt), training.reported(tmp_path):
        raise KeyboardInterrupt
    report = (tmp_path / training.REPORT).read_text()
    assert "Go on with --resume" in report
    assert "Loss" in report
    assert "ROC" not in report


def test_a_failed_run_says_why_in_its_report(tmp_path):
    with pytest.raises(ZeroDivisionError), training.reported(tmp_path):
        _ = 1 / 0
    report = (tmp_path / training.REPORT).read_text()
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
    page, _ = browse(folder / training.REPORT, "--dump-dom")
    assert "<title>ran" not in page
    assert "<img" not in page
    assert page.count("&lt;/script&gt;&lt;img") == 2  # the problem, and the table's row
