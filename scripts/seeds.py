"""Trains one network from many seeds, privately and in floats, and compares how well both answer: is there a bias?

python scripts/seeds.py --data FOLDER [--seeds 30] [--kept FOLDER] [--plot FILE.svg]

FOLDER holds MNIST's four IDX files; sordino must be on the path. --kept is where reports are kept, so that a second call goes on.
The mean difference should be within two of its standard errors of nothing."""
import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path


def report(folder, data, seed):
    path = folder / f"{seed}.json"
    if not path.exists():
        args = ["sordino", "train", "--model", "zoo:lenet", "--data", data, "--batch", "32", "--iterations", "100"]
        args += ["--rate", "0.02", "--seed", str(seed), "--check", "--json", "-o", str(folder / f"m{seed}.onnx")]
        path.write_text(subprocess.run(args, check=True, capture_output=True, text=True).stdout)
    told = json.loads(path.read_text())
    return 100 * told["validation_accuracy"], 100 * told["check"]["validation_accuracy"]


def plot(pairs):
    """Each seed's accuracy, private over float."""
    low = min(min(p) for p in pairs) - 0.5
    high = max(max(p) for p in pairs) + 0.5
    x = lambda v: 60 + 420 * (v - low) / (high - low)
    y = lambda v: 460 - 420 * (v - low) / (high - low)
    text = lambda a, b, t, more="": f'<text x="{a:.0f}" y="{b:.0f}" font-family="sans-serif" font-size="13" {more}>{t}</text>'
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="520" height="520"><rect width="520" height="520" fill="white"/>']
    parts.append(f'<line x1="{x(low)}" y1="{y(low)}" x2="{x(high)}" y2="{y(high)}" stroke="#999"/>')
    parts += [f'<circle cx="{x(f):.1f}" cy="{y(p):.1f}" r="4" fill="#1f77b4" fill-opacity="0.7"/>' for p, f in pairs]
    for v in range(int(low) + 1, int(high) + 1):
        parts += [text(x(v), 480, f"{v} %", 'text-anchor="middle"'), text(50, y(v) + 4, f"{v} %", 'text-anchor="end"')]
    parts += [text(270, 508, "accuracy in floats", 'text-anchor="middle"'), text(60, 24, "accuracy of the private training from the same seed")]
    return "\n".join(parts) + "</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.kept or Path(temporary)
        folder.mkdir(exist_ok=True)
        pairs = [report(folder, given.data, seed) for seed in range(1, given.seeds + 1)]
    differences = [p - f for p, f in pairs]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    private, floats = (statistics.mean(p[i] for p in pairs) for i in (0, 1))
    above = sum(d > 0 for d in differences)
    print(f"{len(pairs)} seeds: private {private:.3f} %, floats {floats:.3f} %")
    print(f"difference {statistics.mean(differences):+.3f} points, standard error {error:.3f}; {above} above")
    if given.plot:
        given.plot.write_text(plot(pairs))


if __name__ == "__main__":
    main()
