"""Clusters of sites that run apart for some rounds: their keys, and what they cannot go with."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from fedpurel_app.algorithms.unfit import hides_replies, remembers_places
from fedpurel_app.core.options import Count, Few, Option, Settings


def meets_in_every_round(settings: Settings) -> str:
    """Return why there are no clusters that run apart, or none that are found; "" where there are."""
    if settings["edge-rounds"] == 1:
        return "edge-rounds = 1"
    return "" if settings["edge-assignment"] == "behaviour" else f'edge-assignment = "{settings["edge-assignment"]}"'


def runs_apart(settings: Settings) -> str:
    """Refuse, where clusters run apart, what hides or moves what they average, and edges that are not built."""
    if settings["edge-rounds"] == 1:
        return ""
    if settings["edge-assignment"] == "latency":
        return (
            'edge-assignment = "latency" is not built: like speeds together save nothing while a round waits for its '
            'whole cohort; set edge-assignment = "behaviour" or "node"'
        )
    if settings["shares"] == "lora-a":
        return 'with shares = "lora-a" sites keep a part of the model that clusters go by; set shares = "all"'
    if settings["compression"] == "sketch":
        return (
            'its clusters average few replies each, of which compression = "sketch" leaves a coarse estimate; set '
            'compression = "none" or "top-k", or edge-rounds = 1 and trust = "none"'
        )
    return remembers_places(settings) or hides_replies(settings)


CLUSTERS = Option("clusters", 4, Few, "most clusters of sites, 1..64")
EDGES = (
    replace(CLUSTERS, idle=meets_in_every_round),
    Option("edge-rounds", 2, Few, "E: clusters run apart for E - 1 of E rounds, 1..64; 1 = never"),
    Option(
        "edge-assignment",
        "behaviour",
        Literal["behaviour", "node", "latency"],
        "clusters by behaviour on public probes | by the edge in a site's node config (latency: not built)",
        idle=lambda settings: "edge-rounds = 1" if settings["edge-rounds"] == 1 else "",
    ),
    Option("cluster-every", 5, Count, "rounds after which clusters are cut anew", idle=meets_in_every_round),
    Option(
        "cluster-distance",
        "cosine",
        Literal["cosine", "symmetric-kl", "gaussian"],
        "of the changes of logits: cosine | symmetric KL at one size (our reading) | gaussian (as published)",
        idle=meets_in_every_round,
    ),
)
