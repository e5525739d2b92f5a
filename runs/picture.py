"""Makes the picture of a report that README.md shows. Needs Chromium and Pillow.

atomica-run runs/ligand.toml
python -m runs.picture outputs/ligand/report.html       writes runs/pictures/report.png
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH, HEIGHT = 1000, 1530
"""Of what is shown of the page, from its top, in pixels."""
COLOURS = 48
PICTURE = Path(__file__).resolve().parent / "pictures" / "report.png"


def main(page: Path) -> int:
    """Photograph a page; prints what was written."""
    from PIL import Image

    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        print(f"no browser: none of {', '.join(names)} is installed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        words = [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/user",
        ]
        words += [f"--window-size={WIDTH},{HEIGHT}", "--virtual-time-budget=5000", f"--screenshot={photo}"]
        subprocess.run([*words, page.resolve().as_uri()], check=True, capture_output=True)
        PICTURE.parent.mkdir(exist_ok=True)
        with Image.open(photo) as picture:
            picture.convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
