"""Weights to and from Hugging Face's GPT-2, ViT and Llama: the same numbers under other names, in other shapes.

    load_gpt2(model, GPT2LMHeadModel.from_pretrained("gpt2").state_dict())
    GPT2LMHeadModel(GPT2Config(**config_gpt2(model))).load_state_dict(export_gpt2(model))

Nothing is downloaded and `transformers` is not imported. What is given to Hugging Face computes what ours does: a model that its class
cannot represent is refused before anything is written, and what weights do not tell (heads, activation, eps, the base of rotary positions)
is in the config. What is loaded is checked by names and shapes alone: the architecture is that of the model it is loaded into
(`spaces/presets/gpt2.yaml`), so that GPT-2's weights can start a model that is not quite GPT-2.
"""

from aotsearch.models.exchange.families import GPT2, LLAMA, VIT

load_gpt2, export_gpt2, config_gpt2 = GPT2.load, GPT2.export, GPT2.config  # `spaces/presets/gpt2.yaml`
load_vit, export_vit, config_vit = VIT.load, VIT.export, VIT.config  # of transformers 5; `spaces/presets/vit_small.yaml`
load_llama, export_llama, config_llama = LLAMA.load, LLAMA.export, LLAMA.config  # `spaces/presets/llama_like.yaml`
