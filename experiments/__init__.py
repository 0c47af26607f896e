"""Experiments: one file, one method, one frozen dataclass with `run(workdir)`."""
