"""Answer one message of every kind, as a real site does, in two processes; say what each kind left imported.

python tests/answering.py '[{run settings}, {node settings}]' prints a line for each process. The first fills the
caches. Both are forks of this one, which imports what the app itself does and answers nothing.
"""

import json
import os
import sys

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedpurel_app.client_app import app
from fedpurel_app.core.records import ARRAYS, CONFIG, Instruction, to_array_record
from fedpurel_app.data.shapes import rendered
from fedpurel_app.models.peft.base import parameters_of
from fedpurel_app.site.site import Site

HEAVY = ("datasets", "open_clip", "torchvision", "transformers", "peft", "matplotlib", "flwr_datasets", "pyarrow")


def answer_all(experiment, settings, node):
    """Answer, in the order of a run; give the heavy packages that are loaded after each kind."""
    rendered.SHAPES_TEST = 2
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    loaded = {}

    def ask(kind, phase, number, arrays=None):
        content = RecordDict({CONFIG: Instruction(phase, number, experiment).to_config()})
        if arrays is not None:
            content[ARRAYS] = arrays
        message = Message(content, 1, kind)
        message.metadata.__dict__["_message_id"] = "1"
        reply = app(message, Context(1, 1, node, RecordDict(), settings))
        assert not reply.has_error(), reply.error
        loaded[kind] = [name for name in HEAVY if name in sys.modules]

    ask("query.describe", "global", 1)
    branch = Site(settings, node).experiment.kit.new_shared()
    arrays = to_array_record({name: value.numpy() for name, value in parameters_of(branch).items()})
    ask("train", "global", 1, arrays)
    ask("train.personalize", "personal", 2, arrays)
    ask("evaluate", "personal", 2, arrays)
    return loaded


if __name__ == "__main__":
    for name in ("first", "second"):
        if not (child := os.fork()):
            print(json.dumps(answer_all(name, *json.loads(sys.argv[1]))), flush=True)
            os._exit(0)
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(code)
