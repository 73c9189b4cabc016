"""One file for each question: a function ``run(quick)`` that returns a Section."""
