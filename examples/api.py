"""The main job in Python: ``python examples/api.py model.pt2 data.npz``."""

import sys

import compressor

outcome = compressor.compress(sys.argv[1], method="int8", data=sys.argv[2], max_loss=0.01, preset="quick")
print(outcome.report.headline)
for warning in outcome.report.warnings:
    print("!", warning)
for comparison in outcome.report.comparisons:
    for delta in comparison.deltas:
        print(f"{comparison.baseline:14} {delta.metric:42} {delta.ratio:.3f} {delta.ci95} {delta.verdict}")
print("model and report in", outcome.folder)
