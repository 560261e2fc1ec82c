"""Parameter-efficient families. A new one is one file here and one entry in ``FAMILIES``."""

from fedpurel_app.models.peft import adapter, lora, prompt, text_residual, visual_prompt
from fedpurel_app.models.peft.base import Family, Host, PeftModule, Role, load_parameters, parameters_of, to_tensors

FAMILIES = {
    family.name: family
    for family in (prompt.FAMILY, adapter.FAMILY, text_residual.FAMILY, lora.FAMILY, visual_prompt.FAMILY)
}

__all__ = ["FAMILIES", "Family", "Host", "PeftModule", "Role", "load_parameters", "parameters_of", "to_tensors"]
