"""Reports to look at: one HTML file each that needs no network, no server and no other file.

Charts are drawn as SVG by hand: what the reports need are lines, points, bars and bands, in 10 kB of style and
script, where a charting library would add megabytes to every file. Structures are shown by NGL, which the page holds
packed.
"""

from __future__ import annotations

__all__ = ["PAGES"]

PAGES = {
    "annotate": "atomica.report.annotate",
    "embed": "atomica.report.embed",
    "evaluate": "atomica.report.evaluate",
    "network": "atomica.report.network",
    "score": "atomica.report.score",
}
"""`run.job` → the module whose function `page` draws what a report of it shows."""
