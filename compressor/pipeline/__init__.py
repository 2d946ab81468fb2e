"""The whole line: load, export, compress stage by stage, score, measure, compare, report."""

from compressor.pipeline.job import Job, Listener, Method, Outcome
from compressor.pipeline.line import compress, run

__all__ = ["Job", "Listener", "Method", "Outcome", "compress", "run"]
