"""How alike donors are: from genotypes, from abundances, and from the files that other programs write."""
