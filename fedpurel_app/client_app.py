"""The ClientApp: each message to a :class:`~fedpurel_app.site.site.Site`, its answer into a reply."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedpurel_app.config import load_node_config
from fedpurel_app.core.errors import AttemptError, FedPurelError, PolicyError
from fedpurel_app.core.layout import METHOD, Layout, of_lists
from fedpurel_app.core.names import clean
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import (
    ARRAYS,
    BRIEF,
    CLIPPING_NORM,
    CONFIG,
    METRICS,
    Arrays,
    Instruction,
    Refusal,
    is_finite,
    to_array_record,
    to_arrays,
)
from fedpurel_app.core.shared_log import with_lines
from fedpurel_app.site.own_log import OwnLog, listening
from fedpurel_app.site.privacy_mod import privacy_mod
from fedpurel_app.site.site import Site, is_simulated

app = ClientApp()
logger = getLogger("flwr.fedpurel.client")


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this site is, or that it will not serve this run."""
    try:
        with _site(message, context, tells=True) as (site, log):
            told = message.content.config_records.get(CONFIG)  # other servers ask without saying who they are
            answer = site.describe(Instruction.from_config(told) if told else None).to_config()
            return Message(with_lines(RecordDict({CONFIG: answer}), log.shared(site.node)), reply_to=message)
    except AttemptError as error:
        answer = Refusal("attempt", clean(str(error))).to_config()
    except PolicyError as error:
        answer = Refusal("policy", clean(str(error), 1000)).to_config()
    return Message(RecordDict({CONFIG: answer}), reply_to=message)


@app.train(mods=[privacy_mod])
def train(message: Message, context: Context) -> Message:
    """Train the shared parameters (phase 1)."""
    with _site(message, context, tells=True) as (site, log):
        # Flower's mods clip to what the message says, whatever that is.
        records = message.content.config_records.values()
        site.require_clipping([record[CLIPPING_NORM] for record in records if CLIPPING_NORM in record])
        arrays, metrics = site.train(Phase.GLOBAL, *_unpack(message), _brief(message), _layout(message))
        lines = [] if site.kit.keeps_secrets else log.shared(site.node)
    content = RecordDict({ARRAYS: to_array_record(arrays), METRICS: MetricRecord(metrics)})
    return Message(with_lines(content, lines), reply_to=message)


@app.train("personalize")
def personalize(message: Message, context: Context) -> Message:
    """Train this site's private branch (phase 2); the reply carries numbers alone, and what the method names."""
    with _site(message, context) as (site, _):
        arrays, metrics = site.train(Phase.PERSONAL, *_unpack(message), _brief(message), _layout(message))
    sent = {ARRAYS: to_array_record(arrays)} if arrays else {}
    return Message(RecordDict({**sent, METRICS: MetricRecord(metrics)}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the models on this site's test part."""
    with _site(message, context) as (site, _):
        metrics = site.evaluate(*_unpack(message), _layout(message))
    return Message(RecordDict({METRICS: MetricRecord(metrics)}), reply_to=message)


@contextmanager
def _site(message: Message, context: Context, tells: bool = False) -> Iterator[tuple[Site, OwnLog]]:
    """Make the site, and listen to its log; Flower sends the text of an error to the server.

    A real site keeps that text, for it names paths, unless it shares its log and the message may tell: nothing that
    runs on a private part does, for whether and how it fails says something of the part.
    """
    site = None
    with listening() as log:
        try:
            site = Site(context.run_config, context.node_config)
            if not site.simulated:  # where all sites write to one output
                logger.info("%s is asked: %s", site.name, clean(message.metadata.message_type, 60))
            yield site, log
        except (AttemptError, PolicyError) as error:  # they name experiments, rounds, settings: the server knows them
            logger.warning("This site refuses: %s", error)
            raise
        except Exception as error:
            if is_simulated(context.node_config):
                raise RuntimeError(f"{type(error).__name__}: {error}{_place(error)}") from error
            logger.exception("This site could not answer.")
            keeps_secrets = site is not None and site.kit.keeps_secrets
            if tells and not keeps_secrets and _shares_log(context):
                raise RuntimeError(clean(f"{type(error).__name__}: {error}{_place(error)}", 1000)) from None
            raise RuntimeError(f"{type(error).__name__} at the site; its own log says more") from None


def _shares_log(context: Context) -> bool:
    try:
        return load_node_config(context.node_config).share_log != "none"
    except FedPurelError:
        return False


def _place(error: BaseException) -> str:
    """Name the line of this package that an error of another kind than the package's own comes from."""
    if isinstance(error, FedPurelError):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "fedpurel_app" in frame.filename]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _unpack(message: Message) -> tuple[Arrays, Instruction]:
    arrays, config = message.content[ARRAYS], message.content.config_records[CONFIG]
    if not isinstance(arrays, ArrayRecord):
        raise TypeError(f'the message\'s record "{ARRAYS}" is a {type(arrays).__name__}, not an ArrayRecord')
    return _finite(arrays), Instruction.from_config(config)


def _brief(message: Message) -> Arrays:
    """Return what the method's part at the server sent beside the shared parameters."""
    record = message.content.array_records.get(BRIEF)
    return {} if record is None else _finite(record)


def _layout(message: Message) -> Layout:
    """Return how the shared parameters are laid out, as the server says."""
    return of_lists(message.content.config_records.get(METHOD, {}))


def _finite(record: ArrayRecord) -> Arrays:
    unpacked = to_arrays(record)
    if not is_finite(unpacked):
        raise ValueError("the message's arrays hold NaN or Inf")
    return unpacked
