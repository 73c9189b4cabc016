"""Long tables of peptides, as programs of proteomics write them, laid out as runs x peptides."""
