"""The same by transformers and peft, as people write it: a first training step, or a first word.

    python peer.py step MODEL ARTICLE
    python peer.py summary MODEL ARTICLE

MODEL is the folder of a dense checkpoint. Nothing of this project's; logged in the words of its start-up line.
"""

from __future__ import annotations

import sys
import time

BEGUN_S = time.perf_counter()
PARTS: list[str] = []
TOKENS, SUMMARY_TOKENS = 384, 64


def lap(part: str) -> None:
    """End a part of the start."""
    global BEGUN_S
    now_s = time.perf_counter()
    PARTS.append(f"{part} {now_s - BEGUN_S:.1f} s")
    BEGUN_S = now_s


def main() -> None:
    what, model_folder, article_file = sys.argv[1:]
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if what == "step":
        from bitsandbytes.optim import Adam8bit
        from peft import LoraConfig, get_peft_model
    else:
        from transformers import TextStreamer
    lap("imports")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    with open(article_file, encoding="utf-8") as file:
        ids = tokenizer(file.read(), return_tensors="pt").input_ids[:, :TOKENS]
    lap("tokens")
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    lap("base")
    if what == "summary":
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            model.generate(
                ids, max_new_tokens=8, do_sample=False, streamer=TextStreamer(tokenizer, skip_prompt=True)
            )
        return
    linear = (torch.nn.Linear, torch.nn.Embedding)
    layers = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, linear)}
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=2, target_modules=sorted(layers)))
    optimizer = Adam8bit([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    lap("attach")
    labels = ids.clone()
    labels[:, :-SUMMARY_TOKENS] = -100
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids.expand(2, -1), labels=labels.expand(2, -1)).loss
    loss.backward()
    optimizer.step()
    lap("first step")
    print(f"start-up: {', '.join(PARTS)}; in all", flush=True)


if __name__ == "__main__":
    main()
