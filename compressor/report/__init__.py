"""Rendering a Report: every number comes from the record, nothing is computed twice."""
