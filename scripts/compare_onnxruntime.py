"""Compares what floats answer to generated models with onnxruntime: python scripts/compare_onnxruntime.py FOLDER

FOLDER is written by
    GENERATED_DUMP=FOLDER GENERATED=20000 cargo test --release -p sordino-nn --test generated
and needs onnx and onnxruntime from pip. Prints every model on which the two differ; the exit code is 0 if none does."""
import collections
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

onnxruntime.set_default_logger_severity(4)
TYPES = {"And": 9, "Or": 9, "Xor": 9, "Not": 9}


def tensors(entries):
    return {e["name"]: np.array([float(v) for v in e["data"]], np.float32).reshape(e["dims"]) for e in entries}


def answer(path, inputs):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = onnx.load(path)
    # The writer knows of no other types of outputs than floats, and of no shapes that matter here.
    for output in model.graph.output:
        output.ClearField("type")
        output.type.tensor_type.elem_type = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, inputs)


def main():
    counts, wrong = collections.Counter(), 0
    for path in sorted(Path(sys.argv[1]).glob("*.onnx"), key=lambda p: int(p.stem)):
        told = json.loads(path.with_suffix(".json").read_text())
        try:
            want = answer(path, tensors(told["inputs"]))
        except Exception as e:  # Not a model of the standard, or none that onnxruntime runs.
            counts["refused by onnxruntime"] += 1
            if "--why" in sys.argv:
                print(path.stem, str(e)[:200].replace("\n", " "))
            continue
        got = list(tensors(told["outputs"]).values())
        worst = ""
        for g, w in zip(got, want):
            w = np.asarray(w, np.float32)
            if g.shape != w.shape:
                worst = f"shape {g.shape}, not {w.shape}"
                break
            # Where one of the two is no number or infinite, both have left the floats.
            both = np.isfinite(g) & np.isfinite(w)
            if both.any():
                off = np.abs(g - w)[both].max() / max(1.0, np.abs(w[both]).max())
                if off > 1e-3:
                    worst = f"off by {off:.3g}"
                    break
        counts["differ" if worst else "agree"] += 1
        if worst:
            ops = [n.op_type for n in onnx.load(path).graph.node]
            print(f"{path.stem}: {worst}; {' '.join(ops)}")
            wrong += 1
    print(dict(counts))
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
