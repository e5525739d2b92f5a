"""The command atomica-prep: from structure files to data sets."""
