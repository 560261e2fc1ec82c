"""What can be written behind ``fedpurel`` to use what runs have trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fedpurel_app.cli.parser_parts import add_command, positive


def _weights(text: str) -> tuple[float, ...]:
    """Read a preference: numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 0 to 1, or several with commas") from None


_PREFERENCE: dict[str, Any] = {
    "metavar": "P",
    "type": _weights,
    "help": "of a site's model with a knob, as of algorithm = copsl: 1 = its usual mix of classes, 0 = all classes "
    "alike; with preferences = 3 three weights, as 0.5,0.3,0.2",
}


def add_using(commands: Any) -> None:
    """Add the commands that use what runs have trained."""
    predict = add_command(
        commands,
        "predict",
        "classify images with the model of a run",
        "--run ~/fedpurel/runs/2026-11-21_... --site site-07 photo.jpg",
    )
    _name_model(predict)
    predict.add_argument("--preference", **_PREFERENCE)
    predict.add_argument("--top", metavar="K", type=positive, default=5, help="classes to print (default: 5)")
    predict.add_argument(
        "--classes",
        metavar="NAMES",
        help='classes to tell apart in the place of the run\'s, as "cat, dog", or a file with a name a line',
    )
    predict.add_argument("--json", action="store_true", help="print JSON")
    predict.add_argument("image", type=Path, nargs="+", metavar="IMAGE")
    export = add_command(
        commands,
        "export",
        "write the model of a run as files for other programs",
        "--run ~/fedpurel/runs/2026-11-21_... --out model/",
    )
    _name_model(export)
    export.add_argument("--preference", action="append", **_PREFERENCE)
    export.add_argument("--out", metavar="DIR", type=Path, required=True, help="a folder that is absent or empty")
    export.add_argument(
        "--format",
        metavar="FORM",
        choices=("safetensors", "onnx"),
        default="safetensors",
        help="safetensors: tensors, classifier, LoRA as a model of open_clip | onnx: one file from images to logits "
        "(default: safetensors)",
    )

    _add_personalize(
        add_command(
            commands,
            "personalize",
            "train a private branch for a site that the run has not met, on its own data, without a server",
            "~/fedpurel/runs/2026-11-21_... --data /data/clinic-d --out clinic-d/ --site clinic-d",
        )
    )


def _add_personalize(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run", metavar="RUN", type=Path, help="a finished run, whose global model and settings are used"
    )
    command.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        required=True,
        help="a folder of classes, or of train and test, a table of images, parquet, or an .npz of features",
    )
    command.add_argument("--out", metavar="DIR", type=Path, required=True, help="a folder that is absent or empty")
    command.add_argument("--site", metavar="NAME", default="new-site", help="what to call it (default: new-site)")
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of personal rounds that differs from the run's, as personal-rounds; repeatable",
    )
    _name_checkpoint(command)
    command.add_argument("--key-file", metavar="FILE", type=Path, help="key to encrypt the branch with")
    _name_weights(command)


def _name_checkpoint(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint",
        metavar="WHICH",
        choices=("last", "best"),
        default="last",
        help="the global model of the last round, or the best by validation data: last | best (default: last)",
    )


def _name_weights(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pretrained", metavar="FILE", type=Path, help="the backbone's weights here (default: where the run had them)"
    )


def _name_model(command: argparse.ArgumentParser) -> None:
    """Add what names a trained model to a command."""
    command.add_argument("--run", metavar="DIR", type=Path, required=True, help="run folder")
    command.add_argument("--site", metavar="NAME", default="", help="a site's personalized model; else the global one")
    _name_checkpoint(command)
    command.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        help="where that site keeps its private branch (default: the run's own)",
    )
    command.add_argument("--key-file", metavar="FILE", type=Path, help="key that the site encrypts its branch with")
    _name_weights(command)
