"""Who may import whom, and what stays unloaded."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedpurel_app

ROOT = Path(fedpurel_app.__file__).parent
# What a part may import: of this package, beside core and itself; from outside, beside the standard library and numpy.
# Of `algorithms` and `models` everybody may import the registries, which load no torch.
RULES = {
    "core": (set(), {"flwr", "pydantic", "safetensors"}),
    "functional": (set(), {"torch"}),
    "compression": (set(), {"pydantic"}),
    "config": ({"compression"}, {"pydantic", "pydantic_core"}),
    "models": ({"functional"}, {"torch", "torchvision", "open_clip", "peft", "safetensors", "PIL", "pydantic"}),
    "algorithms": ({"functional", "models"}, {"torch"}),
    "training": ({"functional", "models", "algorithms"}, {"torch", "filelock", "PIL"}),
    "data": (set(), {"datasets", "pyarrow", "PIL", "open_clip", "pydicom", "torchvision"}),
    "strategies": ({"compression"}, {"flwr", "scipy"}),
    "reporting": (
        {"config"},
        {"rich", "matplotlib", "psutil", "filelock", "pydantic", "scipy", "jinja2", "markupsafe"},
    ),
    "federation": ({"config", "data"}, set()),
    "chosen": ({"algorithms", "compression", "config", "models"}, set()),
    "model_kit": ({"algorithms", "chosen", "compression", "config", "federation", "models", "training"}, {"torch"}),
    "images": ({"data", "federation", "model_kit", "models", "training"}, {"torch"}),
    "experiment": ({"config", "data", "federation", "images", "model_kit"}, set()),
    "site": (
        {"algorithms", "config", "data", "experiment", "models", "training"},
        {"cryptography", "filelock", "flwr", "torch"},
    ),
    "server": (
        {"algorithms", "config", "data", "experiment", "functional", "inference", "model_kit", "models", "reporting"}
        | {"strategies", "training"},
        {"flwr", "torch", "PIL"},
    ),
    "inference": (
        {"algorithms", "config", "data", "experiment", "models", "reporting", "site"},
        {"safetensors", "torch"},
    ),
    "launch": ({"config", "data", "models", "reporting"}, {"flwr", "psutil", "rich", "torch"}),
    "sweeps": ({"config", "launch", "reporting"}, {"psutil", "pydantic"}),
    "cli": (set(), set()),
    "api": (set(), set()),
    "client_app": (set(), set()),
    "server_app": (set(), set()),
}
ENDS = {"client_app", "server_app", "cli", "api"}  # import what they like; of all others only ends import them
REGISTRIES = (
    "fedpurel_app.algorithms.method",
    "fedpurel_app.algorithms.registry",
    "fedpurel_app.algorithms.unfit",
    "fedpurel_app.algorithms.balancers.registry",
    "fedpurel_app.models.peft.registry",
)


def parts():
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        yield path, relative.parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "fedpurel_app":
                yield from (f"fedpurel_app.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("path", "part"), parts(), ids=lambda value: str(value).removeprefix(f"{ROOT}/"))
def test_imports_follow_the_rules(path, part):
    if part in ENDS or path == ROOT / "__init__.py":
        return
    siblings, packages = RULES[part]
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "fedpurel_app":
            fine = not rest or rest[0] in siblings | {"core", part, "__version__"}
            assert fine or name.startswith(REGISTRIES), f"{part} imports {name}"
        elif first not in sys.stdlib_module_names:
            assert first in packages | {"numpy"}, f"{part} imports {name}"


def test_only_ends_import_ends():
    for path, part in parts():
        if path == ROOT / "__init__.py":
            continue
        for name in imports(path):
            rest = name.split(".")[1:2]
            closed = set() if part in ENDS else ENDS
            assert name.split(".")[0] != "fedpurel_app" or not rest or rest[0] not in closed, f"{path}: {name}"


def test_nothing_imports_a_name_that_is_private_to_another_file():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedpurel_app"):
                assert not [
                    alias.name for alias in node.names if alias.name.startswith("_") and alias.name != "__version__"
                ]


def test_every_part_has_a_rule():
    assert {part for _, part in parts()} == set(RULES) | {"__init__"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def loaded_after(statement):
    return set(run(f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))").split())


def test_the_strategy_loads_without_torch():
    loaded = loaded_after("import fedpurel_app.strategies")
    assert "flwr" in loaded and not loaded & {
        "torch",
        "pydantic_settings",
        "open_clip",
        "peft",
        "datasets",
        "matplotlib",
    }


def test_help_loads_without_torch():
    assert not loaded_after("import fedpurel_app.cli.main") & {"torch", "flwr", "ray", "matplotlib", "scipy"}


# One process that goes from the mathematics on to an app that has trained, for torch takes its time.
STAGES = """
import sys
def tell(): print(*sys.modules)
import fedpurel_app.functional
tell()
import torch
from torch import nn
from fedpurel_app.algorithms.fedpurel import global_step
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.training.inputs import LocalData
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.training.local import train
class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 2))
    def with_text(self, inputs):
        return inputs @ self.weight, self.weight.T
data = LocalData(torch.ones(4, 3), torch.zeros(4, dtype=torch.long), torch.ones(4, 2))
train(Linear(), data, global_step, SgdSettings(0.1, 0.9, 0.1, 2, 1), torch.Generator(), METHODS["fedpurel"].defaults())
tell()
import fedpurel_app.client_app
tell()
"""


@pytest.fixture(scope="module")
def stages():
    """Return the modules that are loaded with the mathematics, after training, and with the app."""
    return [set(line.split()) for line in run(STAGES).splitlines()]


def test_the_mathematics_load_without_flower(stages):
    mathematics, _, _ = stages
    assert "torch" in mathematics and not mathematics & {"flwr", "ray", "open_clip", "peft", "pydantic"}


def test_training_does_not_load_torchs_compiler(stages):
    """It costs seconds in every new process, and at a real site every message is one."""
    _, trained, _ = stages
    assert "fedpurel_app.training.local" in trained and "torch._dynamo" not in trained


def test_a_site_that_trains_loads_neither_open_clip_nor_peft(stages):
    _, _, app = stages
    assert "fedpurel_app.client_app" in app and not app & {
        "open_clip",
        "peft",
        "torchvision",
        "matplotlib",
        "datasets",
    }


def calls(path):
    """Return every call in a file: its name, its keywords, and where it stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            yield ast.unparse(node.func), given, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", [path for path, _ in parts()], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_read_in_a_way_that_runs_code(path):
    """No pickle but the name of its error; torch.load takes tensors alone, numpy no objects."""
    text = path.read_text("utf-8")
    for name in ("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"):
        used = set(re.findall(rf"\b{name}\.(\w+)", text))
        assert used <= {"UnpicklingError"} and f"from {name} " not in text, f"{path}: {name}"
    for name, given, where in calls(path):
        assert name not in ("eval", "exec"), where
        assert not name.endswith("torch.load") or given.get("weights_only") is True, where
        assert not name.endswith("np.load") or given.get("allow_pickle") is False, where
