"""The files here are programs that ask a running server; the test suite is in ../tests."""

collect_ignore_glob = ["*.py"]
