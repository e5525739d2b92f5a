"""Reports to look at: one HTML file each that needs no network, no server and no other file.

A page is filled from Python with plain text, numbers and charts (`page.Page`); the templates in `assets` draw it and
escape everything. Charts are drawn as SVG by hand: what the reports need are lines, points, bars and bands, in 10 kB of
style and script, where a charting library would add megabytes to every file. Structures are shown by NGL, which the
page holds packed.

How to add the page of a job NAME:

1. `report/NAME.py` with a function `page(done, page)`, which reads the tables that the job wrote (`done.tables`,
   `done.figures`, see `done.Done`) and adds sections to the page; see `report/embed.py` as an example. It gets no more
   than that, so that the report can be made again from the folder. Summary, settings and versions are there already.
2. `jobs/NAME.py` hands the function to its `Kind`; `python -m atomica.report FOLDER` finds it by the name of the file.
3. In `tests/unit/test_report.py` a function `left_by_NAME`, which leaves tables as the job does, with markup in every
   text: the test of all pages checks that it stays text. In `tests/e2e/test_report.py` the job itself, with what its
   page must show in a browser.

A piece that no page has yet is a macro in `assets/pieces.html` and a method of `Page` that adds it. A plot of the
predictions of a head is a function in `report/predictions.py`, or in a package that brings the head; see `plot` there.
"""
