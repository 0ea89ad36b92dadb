"""A comparison's results in files: archive, JUnit XML, HTML report."""
