"""open_clip's architectures made small, with random weights on disk, and a hub's cache of tokenizers to go with them.

What is kept of an architecture is its form: kinds of towers, layers, pooling, projections, tokenizer, patch and image
size. What is made small: depth, widths, and the vocabulary where the tokenizer is not CLIP's own.
"""

import json
from copy import deepcopy

import open_clip
import timm
import torch
from safetensors.torch import save_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WORDS = ("a", "photo", "of", "red", "blue", "circle", "square", ".", "the", "very")
WIDE = 128  # of timm's transformers
_HF = {  # of a model that a text_cfg names: its type, and what the type calls width, depth and the rest
    "roberta": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    "xlm-roberta": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    "mt5": {"d_model": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "d_ff": 64, "d_kv": 16},
    "m2m_100": {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
    },
    "bert": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
}


def use_hub(folder, monkeypatch):
    """Make an empty cache of the hub the one that is used; returns its folder."""
    cache = folder / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("FEDPUREL_HOME", str(folder / "home"))
    return cache


def put_in_hub(cache, repository, commit=COMMIT):
    """Make the folder of a repository in the form of the hub's cache; returns that of its files."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def put_tokenizer(folder, eos=2):
    """Write the files of a tokenizer of ten words, which begins texts with 3 and ends them with ``eos``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = {0: "<pad>", 1: "<one>", 2: "<two>", 3: "<s>", 4: "<unk>"}
    vocabulary = {word: index for index, word in marks.items()} | {word: 5 + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    end = marks[eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A {end}", special_tokens=[("<s>", 3), (end, eos)]
    )
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": end, "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, sep_token=end, cls_token="<s>", **special)
    fast.save_pretrained(folder)
    # What the hub's client leaves where it asked for a file that a repository lacks: transformers asks for this one.
    lacking = folder.parent.parent / ".no_exist" / folder.name
    lacking.mkdir(parents=True, exist_ok=True)
    (lacking / "config.json").touch()


def put_hf_config(folder, kind):
    """Write the config of a transformers model of some kind, of one layer and 32 channels."""
    common = {"model_type": kind, "vocab_size": 64, "pad_token_id": 0, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(common | _HF[kind]))
    (folder.parent.parent / ".no_exist" / folder.name / "config.json").unlink(missing_ok=True)


def kind_of(model):
    """Return the type of the transformers models that open_clip's configs name."""
    for part, kind in (("xlm-roberta", "xlm-roberta"), ("roberta", "roberta"), ("mt5", "mt5"), ("nllb", "m2m_100")):
        if part in model:
            return kind
    raise ValueError(model)


def small(architecture):
    """Return an open_clip model config made small."""
    made = deepcopy(architecture)
    text, vision = made["text_cfg"], made["vision_cfg"]
    if vision.get("timm_proj") == "none":  # the features are the transformer's own
        made["embed_dim"] = WIDE
    if "hf_model_name" not in text:
        wide = made["embed_dim"] if text.get("proj_type") == "none" else 64
        text |= {"width": wide, "heads": 2, "layers": 2}
    if "hf_tokenizer_name" in text:
        text["vocab_size"] = 64
    if "multimodal_cfg" in made:
        made["multimodal_cfg"] |= {"width": 64, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
    if "timm_model_name" in vision:
        return made
    if isinstance(vision["layers"], list):
        vision |= {"layers": [1, 1, 1, 1], "width": 16}
    else:
        vision |= {"layers": 2, "width": 2 * vision.get("head_width", 64)}
    return made


def cut(name):
    """Return what timm makes one of its models small with: one block a stage and, but for hybrids, few channels."""
    if name.startswith("convnext"):
        return {"depths": (1, 1, 1, 1), "dims": (32, 64, 96, 128)}
    if name.startswith("swin"):
        return {"depths": (1, 1, 1, 1)}
    if name.startswith("fastvit"):
        return {"layers": (1, 1, 1, 1, 1) if name[-1] in "34" else (1, 1, 1, 1)}
    if name.startswith("vitamin") or "mci" in name:
        return {"depth": 1}
    return {"depth": 1, "embed_dim": WIDE, "num_heads": 2}


def write_weights(model, path):
    """Make every weight count, for fresh norms and biases are trivial, and write them."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


class SmallClips:
    """Makes small models of open_clip's names, which open_clip and this package then find under these names."""

    def __init__(self, folder, monkeypatch):
        self.folder, self._patch, self.cache = folder, monkeypatch, use_hub(folder, monkeypatch)
        (folder / "configs").mkdir()
        monkeypatch.setattr("fedpurel_app.models.checkpoints._configs", lambda: folder / "configs")
        whole = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda name, *args, **kw: whole(name, *args, **kw | cut(name)))

    def make(self, name):
        """Return open_clip's model of random weights, and the file that these are in."""
        architecture = small(open_clip.get_model_config(name))
        text = architecture["text_cfg"]
        if tokenizer := text.get("hf_tokenizer_name"):
            put_tokenizer(put_in_hub(self.cache, tokenizer), text.get("eos_id", 2))
        if model := text.get("hf_model_name"):
            put_hf_config(put_in_hub(self.cache, model), kind_of(model))
        (self.folder / "configs" / f"{name}.json").write_text(json.dumps(architecture))
        self._patch.setitem(open_clip.factory._MODEL_CONFIGS, name, architecture)
        torch.manual_seed(0)
        model = open_clip.create_model(name, pretrained_text=False).eval()
        path = self.folder / "weights.safetensors"
        write_weights(model, path)
        return model, path
