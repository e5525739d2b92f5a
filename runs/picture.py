"""Makes the pictures of reports that README.md and runs/README.md show. Needs Chromium, and Pillow and Selenium.

python -m runs.picture            in the folder where outputs/ lies or is to lie: runs what is not there yet, minutes
python -m runs.picture network    one of them
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

COLOURS = 256
LARGEST = 200_000
"""Of a picture, bytes."""
LONGEST, PAUSE = 600, 5
"""Seconds until a structure must be there, and until what is there is drawn."""
SCROLL = """
for (const one of document.querySelectorAll("h2"))
  if (one.textContent === arguments[0]) scrollTo(0, one.getBoundingClientRect().top + scrollY - 64);
"""
READY = 'const one = document.querySelector(".viewer"); return !one || "ready" in one.dataset;'
CHOOSE = """
delete document.querySelector(".viewer").dataset.ready;
const choice = document.querySelector(".viewer select");
choice.selectedIndex = [...choice.options].findIndex((one) => one.textContent.trim() === arguments[0]);
choice.dispatchEvent(new Event("change"));
"""
RUNS = Path(__file__).resolve().parent
PICTURES = RUNS / "pictures"


class Shot(NamedTuple):
    """A picture of a report: the specs to run for it, the last of which leaves it; the part that is shown.

    height: in pixels, 1000 wide; section: the heading at whose top it starts, the page's own if none is named.
    structure: the one that the viewer shows.
    """

    specs: tuple[str, ...]
    height: int
    section: str = ""
    structure: str = ""


SHOTS = {
    "report": Shot(("ligand",), 1530),
    "predict": Shot(("ligand", "predict"), 1600),
    "score": Shot(("score",), 1240, "Structure", "1luc_B_A"),
    "network": Shot(("embed", "network"), 1110),
}


def _report(specs: tuple[str, ...]) -> Path:
    """The report of the last of some specs; those that have left none are run."""
    for name in specs:
        page = Path("outputs", name, "report.html")
        if not page.is_file():
            subprocess.run([sys.executable, "-m", "atomica.runner", str(RUNS / f"{name}.toml")], check=True)
    return page


def _until_drawn(window: Any) -> None:
    """Wait for the structures of a page, if it shows any."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(window, LONGEST).until(lambda browser: browser.execute_script(READY))
    time.sleep(PAUSE)


def take(page: Path, shot: Shot, target: Path) -> None:
    """Photograph a page in a headless browser, which its installed driver moves; nothing is downloaded."""
    from PIL import Image
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        raise SystemExit("no Chromium with its driver: install chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    with tempfile.TemporaryDirectory() as folder:
        words = ["--headless=new", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder}"]
        # Structures are drawn by WebGL, without a GPU.
        words += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        for word in words:
            options.add_argument(word)
        with webdriver.Chrome(options=options, service=Service(driver)) as window:
            # The window's own frame is not part of the picture.
            size = {"width": 1000, "height": shot.height, "deviceScaleFactor": 1, "mobile": False}
            window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            window.set_script_timeout(LONGEST)
            window.get(page.resolve().as_uri())
            window.execute_script(SCROLL, shot.section)
            if shot.structure:
                _until_drawn(window)
                window.execute_script(CHOOSE, shot.structure)
            _until_drawn(window)
            photo = window.get_screenshot_as_png()
    target.parent.mkdir(exist_ok=True)
    with Image.open(io.BytesIO(photo)) as picture:
        picture.convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE).save(target, optimize=True)


def main(names: list[str]) -> int:
    """Take pictures, all if none is named; says what was written, and exit code 1 if one is too large."""
    well = True
    for name in names or SHOTS:
        target = PICTURES / f"{name}.png"
        take(_report(SHOTS[name].specs), SHOTS[name], target)
        well &= target.stat().st_size < LARGEST
        print(f"{target}: {target.stat().st_size:,} bytes")
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
