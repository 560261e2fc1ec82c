"""Flower's privacy mods at the client, where the run asks for one."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedpurel_app.config import RunConfig, load_config
from fedpurel_app.core.records import PRIVACY, PRIVACY_MOD


def privacy_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip the update that a reply carries, and add noise to it, as the run config says.

    For ``@app.train`` alone: other replies carry no arrays, and Flower's mods refuse them.

    Parameters
    ----------
    message : Message
    context : Context
    call_next : callable
        The app, or the next mod.

    Returns
    -------
    Message
        The reply. It names the mod that worked, in the ConfigRecord ``privacy``: the server refuses one that does not,
        for a client without this mod would not be noticed otherwise.
    """
    if context.run_config.get("privacy", "none") == "none":
        return call_next(message, context)
    config = load_config(context.run_config)
    mod = _mod(config)
    if mod is None:
        return call_next(message, context)
    reply = mod(message, context, call_next)
    if not reply.has_error():
        reply.content[PRIVACY] = ConfigRecord({PRIVACY_MOD: config.privacy})
    return reply


def _mod(config: RunConfig) -> Mod | None:
    if config.privacy == "client-fixed":
        return fixedclipping_mod
    if config.privacy == "client-adaptive":
        return adaptiveclipping_mod
    if config.privacy == "local":
        # Whatever a site's data are, its clipped updates lie in a ball of radius C: two of them are up to 2 C apart.
        return LocalDpMod(config.clipping_norm, 2 * config.clipping_norm, config.local_epsilon, config.delta)
    return None
