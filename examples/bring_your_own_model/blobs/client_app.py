"""What a site answers: who it is, purified training of the shared head, a private head of its own, and scores."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn.functional import cross_entropy

from blobs.task import Samples, count, linear, make_world, site_data
from fedpurel_app.functional import purified_step, residual_loss

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this site is, under a name that no restart changes."""
    train_data, _ = _data(context)
    site, sites = _place(context)
    about = ConfigRecord(
        {"site": f"site-{site:02d}", "num-examples": len(train_data.y), "partitions": sites, "device": "cpu"}
    )
    return Message(RecordDict({"config": about}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the shared head; what opposes the teacher is taken out of every gradient."""
    config, (data, _) = context.run_config, _data(context)
    teacher = make_world(int(config["seed"])).teacher
    head = linear(message.content.array_records["arrays"].to_torch_state_dict())
    optimizer, conflicts = torch.optim.SGD(head.parameters(), lr=float(config["learning-rate"])), []
    for rows in _batches(message, context):
        if config["purify"]:
            step = purified_step(head, (data.x[rows], data.y[rows]), teacher(data.x[rows]), optimizer)
            conflicts.append(step.conflict)
        else:
            optimizer.zero_grad()
            cross_entropy(head(data.x[rows]), data.y[rows]).backward()
            optimizer.step()
    loss = cross_entropy(head(data.x), data.y)
    metrics = MetricRecord({"num-examples": len(data.y), "loss": loss.item()})
    if conflicts:  # so the strategy knows that this client purifies
        metrics["conflict"] = torch.stack(conflicts).mean().item()
    return Message(RecordDict({"arrays": ArrayRecord(head.state_dict()), "metrics": metrics}), reply_to=message)


@app.train("personalize")
def personalize(message: Message, context: Context) -> Message:
    """Train the private head beside the frozen shared one, and keep it: the reply carries numbers alone."""
    data, _ = _data(context)
    before, now = _number(message, "private-round"), _number(message, "round")
    shared = linear(message.content.array_records["arrays"].to_torch_state_dict()).requires_grad_(False)
    private = _private_head(context, before)
    optimizer = torch.optim.SGD(private.parameters(), lr=float(context.run_config["learning-rate"]))
    for rows in _batches(message, context):
        optimizer.zero_grad()
        loss = residual_loss(shared(data.x[rows]), private(data.x[rows]), data.y[rows])
        loss.backward()
        optimizer.step()
    # `context.state` lives as long as the run; a site with a disk of its own would write a file. The head before is
    # kept, too: should the reply be lost, the server will name that one.
    kept = {name: context.state[name] for name in [_name(before)] if name in context.state}
    context.state = RecordDict({**kept, _name(now): ArrayRecord(private.state_dict())})
    metrics = MetricRecord({"num-examples": len(data.y), "loss": loss.item()})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.evaluate()
@torch.no_grad()
def evaluate(message: Message, context: Context) -> Message:
    """Count correct predictions by class; logits of both heads are added."""
    _, data = _data(context)
    logits = linear(message.content.array_records["arrays"].to_torch_state_dict())(data.x)
    metrics = MetricRecord({"num-examples": max(1, len(data.y))})
    metrics["global/correct"], metrics["global/total"] = count(logits, data.y)
    if number := _number(message, "private-round"):
        both = logits + _private_head(context, number)(data.x)
        metrics["personalized/correct"], metrics["personalized/total"] = count(both, data.y)
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _private_head(context: Context, number: int) -> torch.nn.Linear:
    """Return the private head that a round left, as the server names it; 0: none yet."""
    return linear(context.state.array_records[_name(number)].to_torch_state_dict() if number else None)


def _number(message: Message, key: str) -> int:
    """Return a round that the server names."""
    number = message.content.config_records["config"][key]
    assert isinstance(number, int)
    return number


def _name(number: int) -> str:
    return f"private-{number}"


def _place(context: Context) -> tuple[int, int]:
    return int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])


def _data(context: Context) -> tuple[Samples, Samples]:
    config = context.run_config
    return site_data(int(config["seed"]), float(config["alpha"]), *_place(context))


def _batches(message: Message, context: Context) -> tuple[torch.Tensor, ...]:
    """Shuffle the site's rows, in an order that site and round decide."""
    size = len(_data(context)[0].y)
    seed = 1000 * _number(message, "round") + _place(context)[0]
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed)).split(32)
