"""The losses of the stages, as a picture."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from training.files import read_lines

NOT_LOSSES = {"step", "total", "seconds"}


def plot_losses(logs: list[Path], out: Path) -> None:
    """One panel per log, one line per loss, over the steps. Raises ValueError for a log without losses."""
    figure, panels = plt.subplots(1, len(logs), figsize=(6 * len(logs), 4), squeeze=False, layout="constrained")
    for panel, path in zip(panels[0], logs, strict=True):
        lines = [line for line in read_lines(path) if "step" in line]
        if not lines:
            raise ValueError(f"{path} holds no losses; give the log.jsonl of a stage's folder")
        for name in sorted(set(lines[-1]) - NOT_LOSSES):
            panel.plot([line["step"] for line in lines], [line[name] for line in lines], label=name.replace("_", "-"))
        panel.set(xlabel="step", ylabel="weighted loss", yscale="log", title=path.parent.name)
        panel.legend()
        panel.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    plt.close(figure)
