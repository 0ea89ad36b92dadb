"""Output of a comparison: saved runs and baselines, JUnit XML, the HTML report."""
