"""How good predictions are: statistics, baselines, and the files that say so."""
