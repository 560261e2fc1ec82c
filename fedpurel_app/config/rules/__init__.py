"""Rules that join several keys, a file for each subject."""

from __future__ import annotations

from fedpurel_app.config.model import RunConfig
from fedpurel_app.config.rules.base import Rule
from fedpurel_app.config.rules.compression import compression_rules
from fedpurel_app.config.rules.data import data_rules, shot_rules, site_rules
from fedpurel_app.config.rules.manifest import manifest_rules
from fedpurel_app.config.rules.model import model_rules
from fedpurel_app.config.rules.paths import path_rules
from fedpurel_app.config.rules.privacy import privacy_rules
from fedpurel_app.config.rules.rounds import round_rules
from fedpurel_app.config.rules.split import split_rules
from fedpurel_app.config.rules.trust import trust_rules

__all__ = ["Rule", "broken_rules"]


def broken_rules(config: RunConfig) -> list[Rule]:
    """List the rules that settings break, each valid by itself."""
    of_data = (data_rules, shot_rules, site_rules, manifest_rules)
    at_server = (privacy_rules, compression_rules, split_rules, trust_rules)
    parts = (model_rules, *of_data, round_rules, *at_server, path_rules)
    return [rule for part in parts for rule in part(config) if rule.is_broken]
