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

    def run(page, *options, budget=8000):
        folder = tmp_path_factory.mktemp("browser")
        arguments = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-background-networking"]
        arguments += [f"--user-data-dir={folder / 'profile'}", f"--virtual-time-budget={budget}"]
        arguments += ["--enable-logging=stderr", f"--log-net-log={folder / 'net.json'}", *options]
        done = subprocess.run(
            [found, *arguments, page.as_uri()], capture_output=True, timeout=300, check=False
        )
        assert done.returncode == 0
        log = done.stderr.decode(errors="replace")
        # NGL, which is loaded from a blob, tells what it makes of a structure; the driver how fast it is.
        known = ("source: blob:", "GL Driver Message")
        told = [line for line in log.splitlines() if "CONSOLE" in line and not any(k in line for k in known)]
        assert not told, told
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


# ------------------------------------------------------------------------------------------ jobs after training


def job(folder, name, sections):
    """Run a job; returns its folder."""
    lines = [f'[run]\nname = "{name}"\njob = "{name}"\nout = "{folder / name}"\n', *sections]
    lines.append('[device]\nkind = "cpu"\nthreads = 1\n')
    (folder / f"{name}.toml").write_text("\n".join(lines))
    assert main([str(folder / f"{name}.toml")]) == 0
    return folder / name


@pytest.fixture(scope="module")
def jobs(finished, tiny_set, tmp_path_factory):
    """Folders of a job of each kind, with the model of the small run."""
    folder = tmp_path_factory.mktemp("jobs")
    weights = finished / "checkpoints" / "best"
    data = f'[data]\nsource = "{tiny_set}"\nsplit = "test"\ninput = "complex"\n'
    model = f'[model]\nweights = "{weights}"\n'
    return {
        "embed": job(folder, "embed", [data.replace('"test"', '""'), model]),
        "score": job(folder, "score", [data, model, f'[score]\nroot = "{tiny_set.parent}"\n']),
        "annotate": job(
            folder,
            "annotate",
            [data, f'[annotate.members]\nyes = ["{weights}"]\n[annotate.thresholds]\nyes = 0.5\n'],
        ),
        "network": job(folder, "network", [f'[network]\nembeddings = "{folder / "embed"}"\nneighbors = 3\n']),
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("embed", ["coloured by label", "nearest", "c00"]),
        ("score", ["Scores along the sequence", "contacts within 4.5", 'id="ngl"', "chain B"]),
        ("annotate", ["threshold", "P(yes)", "mean probability of yes"]),
        ("network", ["Components", "coloured by label", "Similarity"]),
    ],
)
def test_a_job_ends_with_a_report(jobs, browse, name, shown):
    report = jobs[name] / training.REPORT
    text = report.read_text()
    for one in shown:
        assert one in text, one
    assert len(text) < (1_500_000 if name == "score" else 1_000_000)
    if name != "score":  # which the next test opens
        page, _ = browse(report, "--dump-dom")
        assert re.search(r"1–\d+ of \d+", page)


def test_the_structure_is_drawn(jobs, browse, tmp_path):
    """A picture of the viewer has pixels of the colours of high scores."""
    from PIL import Image

    picture = tmp_path / "picture.png"
    text = (jobs["score"] / training.REPORT).read_text()
    alone = tmp_path / "score.html"  # the charts above it are left out, so that the viewer is in the picture
    alone.write_text(re.sub(r'<div class="wide">.*?</figure></div>', "", text, flags=re.S))
    browse(
        alone,
        f"--screenshot={picture}",
        "--window-size=900,1100",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        budget=1500,
    )
    pixels = Image.open(picture).convert("RGB").resize((450, 550)).tobytes()
    orange = sum(pixels[i] > pixels[i + 1] + 40 > pixels[i + 2] + 50 for i in range(0, len(pixels), 3))
    assert orange > 300
