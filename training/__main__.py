"""`python -m training STAGE`: trains the small BAGEL in stages, exports and measures it. See docs/training.md.

Exit codes as everywhere: 0 done, 2 wrong usage or bad input, 3 stopped in time with the plan unfinished (run it again).
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from training.workers import start_server

UNFINISHED = 3
STARTED = time.monotonic()
"""A budget of minutes counts the imports too."""


def main(argv: list[str] | None = None) -> int:
    """Run one stage; one line on stderr for bad input instead of a traceback."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        print(f"training: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    stages = parser.add_subparsers(required=True, metavar="STAGE")
    _add_autoencoder(stages)
    _add_decoder(stages)
    _add_transformer(stages)

    one = stages.add_parser("export", help="write the checkpoint folder from a transformer's state")
    one.set_defaults(run=_export)
    one.add_argument("--state", type=Path, required=True)
    one.add_argument("--autoencoder", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--tiny", action="store_true")

    one = stages.add_parser("sheet", help="draw held-out prompts and edits from a transformer's state, to look at")
    one.set_defaults(run=_sheet)
    one.add_argument("--state", type=Path, required=True)
    one.add_argument("--autoencoder", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True, help="PNG; its texts are printed")
    one.add_argument("--device", default="cpu")
    one.add_argument("--tiny", action="store_true")

    one = stages.add_parser("plot", help="draw the losses of one or more stages")
    one.set_defaults(run=_plot)
    one.add_argument("logs", type=Path, nargs="+", help="log.jsonl files")
    one.add_argument("--out", type=Path, required=True, help="PNG")

    one = stages.add_parser("evaluate", help="score a checkpoint on held-out prompts, through bagel's pipeline")
    one.set_defaults(run=_evaluate)
    one.add_argument("--checkpoint", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True, help="JSON")
    one.add_argument("--count", type=int, default=500, help="held-out samples per task")
    one.add_argument("--steps", type=int, default=25)
    one.add_argument("--size", type=int, default=128)
    one.add_argument("--device", default="cpu")
    one.add_argument("--processes", type=int, default=1)
    one.add_argument("--minutes", type=float, default=None, help="stop then, and score what was made by then")
    one.add_argument("--text-scale", type=float, default=4.0, help="guidance where it is on")
    one.add_argument("--image-scale", type=float, default=1.5, help="guidance of edits where it is on")
    one.add_argument("--pictures", type=Path, default=None, help="also write every picture here")
    one.add_argument("--task", action="append", help="only this task; may be repeated")
    one.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    one.add_argument("--quantise", default=None, choices=["fp8", "int8"], help="kind of the experts' linear layers")
    one.add_argument("--ops", default="reference_impl:OPS", help="implementation, MODULE:NAME; fused: mot_impl:OPS")

    one = stages.add_parser("compare", help="hold evaluations of the same samples against the first, pair by pair")
    one.set_defaults(run=_compare)
    one.add_argument("scores", type=Path, nargs="+", help="JSON of evaluate; two or more")
    one.add_argument("--out", type=Path, required=True, help="JSON; the tables are printed")

    one = stages.add_parser("goldens", help="write the requests and inputs of the golden cases")
    one.set_defaults(run=_goldens)
    one.add_argument("--out", type=Path, default=Path("golden_images"))

    one = stages.add_parser("gallery", help="draw the golden pictures with what was asked for")
    one.set_defaults(run=_gallery)
    one.add_argument("--goldens", type=Path, default=Path("golden_images"))
    one.add_argument("--out", type=Path, required=True, help="PNG")

    one = stages.add_parser("card", help="write the model card from what was measured")
    one.set_defaults(run=_card)
    one.add_argument("--scores", type=Path, required=True, help="JSON of evaluate")
    one.add_argument("--logs", type=Path, nargs="+", required=True)
    one.add_argument("--paired", type=Path, default=None, help="JSON of compare: other precisions")
    one.add_argument("--note", default="", help="what the logs do not say: driver, commits")
    one.add_argument("--out", type=Path, required=True)
    return parser


def _add_common(one: argparse.ArgumentParser) -> None:
    one.add_argument("--folder", type=Path, required=True, help="state, log and results; resumed if it holds a state")
    one.add_argument("--minutes", type=float, default=9.0, help="wall clock of this call, imports included")
    one.add_argument("--steps", type=int, default=None, help="of the whole plan; default: what fits into the minutes")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--device", default="cuda")
    one.add_argument("--processes", type=int, default=12, help="that draw scenes; 0: this one")
    one.add_argument("--tiny", action="store_true", help="the tests' sizes")
    one.add_argument("--compile", action="store_true", help="torch.compile of what takes the time")
    one.add_argument("--no-graphs", action="store_true", help="launch a step's kernels one by one, to see them fail")
    one.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN time its kernels for each new shape")


def _add_autoencoder(stages: Any) -> None:
    one = stages.add_parser("autoencoder", help="stage 1")
    one.set_defaults(run=_autoencoder)
    _add_common(one)
    one.add_argument("--batch", type=int, default=128)
    one.add_argument("--scenes", type=int, default=65536, help="of each kind, drawn once")
    one.add_argument("--channels-last", action="store_true", help="lay tensors out by pixel")


def _add_decoder(stages: Any) -> None:
    one = stages.add_parser("decoder", help="train the decoder of a finished autoencoder further; its latents stay")
    one.set_defaults(run=_decoder)
    _add_common(one)
    one.add_argument("--autoencoder", type=Path, required=True, help="folder of a finished stage 1")
    one.add_argument("--batch", type=int, default=32)
    one.add_argument("--rate", type=float, default=1e-3)
    one.add_argument("--wild", type=float, default=0.25, help="share of wild pictures")
    one.add_argument("--scenes", type=int, default=65536, help="of each kind, drawn once")


def _add_transformer(stages: Any) -> None:
    one = stages.add_parser("transformer", help="stage 2: text-to-image, editing and questions")
    one.set_defaults(run=_transformer)
    _add_common(one)
    one.add_argument("--autoencoder", type=Path, required=True, help="folder of a finished stage 1")
    one.add_argument("--texts", type=int, default=512, help="text-to-image samples per step")
    one.add_argument("--edits", type=int, default=192)
    one.add_argument("--asked", type=int, default=128)
    one.add_argument("--block", type=int, default=32768, help="scenes drawn at a time")
    one.add_argument("--block-steps", type=int, default=1000, help="steps that use a block")
    one.add_argument("--muon-rate", type=float, default=6e-3)
    one.add_argument("--adam-rate", type=float, default=2e-3)


def _run(a: argparse.Namespace) -> Any:
    if a.processes:
        start_server()  # it loads its modules while this process loads its own
    import torch

    from training.loop import Run

    if a.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda is asked for but torch finds no GPU here; use --device cpu")
    if a.device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = a.cudnn_benchmark
        # cuDNN's attention builds a plan for each new shape; the masked kernel of PyTorch needs none.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return Run(a.folder, a.minutes, a.steps, a.seed, torch.device(a.device), captured=not a.no_graphs, started=STARTED)


def _sizes(a: argparse.Namespace) -> Any:
    from training.model import TINY, Sizes

    return TINY if a.tiny else Sizes()


def _autoencoder(a: argparse.Namespace) -> int:
    from training.autoencoder import AutoencoderOptions, train_autoencoder

    options = AutoencoderOptions(batch=a.batch, scenes=a.scenes, channels_last=a.channels_last, compiled=a.compile)
    return 0 if train_autoencoder(_run(a), _sizes(a), options, a.processes) else UNFINISHED


def _decoder(a: argparse.Namespace) -> int:
    from training.autoencoder import AutoencoderOptions, train_decoder

    options = AutoencoderOptions(batch=a.batch, scenes=a.scenes, rate=a.rate, wild=a.wild, compiled=a.compile)
    return 0 if train_decoder(_run(a), a.autoencoder, _sizes(a), options, a.processes) else UNFINISHED


def _transformer(a: argparse.Namespace) -> int:
    from training.transformer import TransformerOptions, train_transformer

    options = TransformerOptions(
        texts=a.texts,
        edits=a.edits,
        asked=a.asked,
        block=a.block,
        block_steps=a.block_steps,
        muon_rate=a.muon_rate,
        adam_rate=a.adam_rate,
        compiled=a.compile,
    )
    return 0 if train_transformer(_run(a), a.autoencoder, _sizes(a), options, a.processes) else UNFINISHED


def _export(a: argparse.Namespace) -> int:
    from training.transformer import export_checkpoint

    export_checkpoint(a.state, a.autoencoder, _sizes(a), a.out)
    size = sum(path.stat().st_size for path in a.out.iterdir())
    print(f"wrote {a.out}: {size / 2**20:.2f} MiB")
    return 0


def _sheet(a: argparse.Namespace) -> int:
    from training.sheet import write_sheet_of_state

    texts = write_sheet_of_state(a.state, a.autoencoder, _sizes(a), a.device, a.out)
    for number, text in enumerate(texts, start=1):
        print(f"{number:2d} {text}")
    return 0


def _plot(a: argparse.Namespace) -> int:
    from training.plot import plot_losses

    plot_losses(a.logs, a.out)
    print(f"wrote {a.out}")
    return 0


def _evaluate(a: argparse.Namespace) -> int:
    from training.evaluate import TASKS, EvaluationOptions, evaluate

    options = EvaluationOptions(
        count=a.count,
        steps=a.steps,
        size=a.size,
        device=a.device,
        processes=a.processes,
        pictures=a.pictures,
        text_scale=a.text_scale,
        image_scale=a.image_scale,
        minutes=a.minutes,
        tasks=tuple(a.task or TASKS),
        dtype=a.dtype,
        quantise=a.quantise,
        ops=a.ops,
    )
    evaluate(a.checkpoint, options, a.out)
    return 0


def _compare(a: argparse.Namespace) -> int:
    from training.paired import compare

    if len(a.scores) < 2:
        raise ValueError(f"{len(a.scores)} evaluation was given but a comparison needs two; name another JSON")
    compare(a.scores, a.out)
    return 0


def _goldens(a: argparse.Namespace) -> int:
    from training.goldens import write_cases

    names = write_cases(a.out)
    print(f"wrote {len(names)} cases below {a.out}; next: motbench golden calibrate --reason, motbench golden accept")
    return 0


def _gallery(a: argparse.Namespace) -> int:
    from training.plot import draw_gallery

    draw_gallery(a.goldens, a.out)
    print(f"wrote {a.out}")
    return 0


def _card(a: argparse.Namespace) -> int:
    from training.card import write_card

    write_card(a.scores, a.logs, a.out, a.note, a.paired)
    print(f"wrote {a.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
