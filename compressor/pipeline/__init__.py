"""The whole line: load, export, compress stage by stage, score, measure, compare, report."""

from compressor.pipeline.call import compress
from compressor.pipeline.job import Job, Listener, Method, Outcome
from compressor.pipeline.line import run

__all__ = ["Job", "Listener", "Method", "Outcome", "compress", "run"]
