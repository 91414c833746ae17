#!/usr/bin/env python3
"""Trains one network in PyTorch and with sordino, from the same ONNX export in training mode, on the same batches, and
compares losses and answers. Needs torch, onnx, onnxscript, onnxruntime and numpy, and a release build of sordino.

usage: scripts/pytorch.py [SORDINO]        (default: target/release/sordino)
"""
import json, subprocess, sys, tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
SORDINO = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target/release/sordino")
BATCH, ITERATIONS, RATE, MOMENTUM, DECAY = 32, 20, 0.05, 0.9, 0.001


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.0), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(12 * 9, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 10),
    )


def train(net, x, y, optimiser):
    net.train()
    weights = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    if optimiser == "adam":
        # Ours adds epsilon within the root and takes the correction into the rate.
        step = torch.optim.Adam(groups, lr=0.002, betas=(0.9, 0.99), eps=1e-4)
    else:
        step = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM)
    losses = []
    for _ in range(ITERATIONS):
        # One batch is the whole set, so that the order does not matter.
        step.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        step.step()
        losses.append(float(loss))
    return losses


def main():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(BATCH, 1, 28, 28)).astype(np.float32)
    y = rng.integers(0, 10, size=BATCH)
    worst = 0.0
    # The exporter that traces writes one file, the newer one two, where batch norms stay only without optimisation.
    legacy = dict(dynamo=False, do_constant_folding=False, dynamic_axes={"x": {0: "N"}, "y": {0: "N"}})
    newer = dict(dynamo=True, optimize=False, verbose=False, dynamic_shapes=({0: torch.export.Dim("N")},))
    for optimiser, exporter in [("sgd", legacy), ("adam", legacy), ("sgd", newer)]:
        net = network()
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            np.savez(folder / "set.npz", x=x, y=y)
            net.train()
            torch.onnx.export(net, (torch.from_numpy(x),), str(folder / "start.onnx"), input_names=["x"], output_names=["y"],
                              training=torch.onnx.TrainingMode.TRAINING, **exporter)
            # The export runs the network once, which moves its running statistics.
            net = network()
            command = [SORDINO, "train", "--model", folder / "start.onnx", "--data", folder / "set.npz", "--batch", BATCH,
                       "--epochs", ITERATIONS, "--decay", DECAY, "--reveal-loss", "-o", folder / "end.onnx", "--json",
                       "--optimiser", optimiser, "--validation", folder / "set.npz"]
            command += (["--rate", 0.002, "--beta2", 0.99] if optimiser == "adam" else ["--rate", RATE, "--momentum", MOMENTUM])
            private = json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)
            losses = train(net, torch.from_numpy(x), torch.from_numpy(y), optimiser)
            end = onnx.load(folder / "end.onnx")
            got = {i.name: onnx.numpy_helper.to_array(i) for i in end.graph.initializer}
            missing = set(net.state_dict()) - set(got) - {n for n in net.state_dict() if n.endswith("num_batches_tracked")}
            assert not missing, f"trained tensors lost their names: {missing}"
            net.eval()
            mine = torch.from_numpy(onnx_answer(folder / "end.onnx", x))
            answer = float((net(torch.from_numpy(x)) - mine).abs().max().detach())
        largest = max(abs(a - b) / b for a, b in zip(private["losses"], losses))
        print(f"{optimiser}, {'newer' if exporter['dynamo'] else 'tracing'} exporter: largest relative difference of the loss over {ITERATIONS} iterations {100 * largest:.3f} %, "
              f"of an answer of the trained networks {answer:.4f}, {len(got)} tensors")
        worst = max(worst, largest)
    sys.exit(0 if worst < 0.03 else 1)


def onnx_answer(path, x):
    import onnxruntime
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]


if __name__ == "__main__":
    main()
