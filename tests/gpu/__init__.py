"""One command that proves, and measures, what runs on a GPU: `python -m tests.gpu` (see `__main__`)."""
