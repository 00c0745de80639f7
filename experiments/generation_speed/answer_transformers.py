"""transformers.generate on dense weights with the adapter merged; on a GPU also on bitsandbytes' LLM.int8()."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float16}
"""Of products, by variant."""


class Transformers:
    waits_for_its_reader = False  # generate runs in a thread of its own

    def __init__(self, request: dict[str, Any]) -> None:
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        torch.set_num_threads(request["threads"])
        variant, self.device = request["variant"], torch.device(request["device"])
        model = AutoModelForCausalLM.from_pretrained(request["folder"], dtype=DTYPES[variant])
        if variant == "int8":
            quantize(model, self.device)
        self._end_id = request["end_id"]
        self.model: Any = model.to(self.device).eval()
        # What the folder says of generation is another task's.
        self.model.generation_config = GenerationConfig(pad_token_id=0)
        weights = {id(tensor): tensor.nbytes for tensor in self.model.parameters()}
        self.stored_bytes = sum(weights.values())
        embedding, head = self.model.get_input_embeddings().weight, self.model.get_output_embeddings().weight
        self.read_bytes = self.stored_bytes - (0 if head is embedding else embedding.nbytes)
        self.about = f"transformers {transformers.__version__}, torch {torch.__version__}, {variant}"

    def answer(self, prompt: list[int], new_tokens: int) -> Iterator[int]:
        return streamed(lambda streamer: self._generate([prompt], new_tokens, 1, streamer))

    def answer_all(
        self, prompts: list[list[int]], new_tokens: int, beams: int, batch: int
    ) -> list[list[int]]:
        """Batches of prompts of like length, padded on the left."""
        order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
        answers: dict[int, list[int]] = {}
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            answers |= zip(
                chosen, self._generate([prompts[at] for at in chosen], new_tokens, beams, None), strict=True
            )
        return [answers[at] for at in range(len(prompts))]

    def logits(self, prompt: list[int], given: list[int]) -> Iterator[np.ndarray]:
        ids = torch.tensor([prompt], device=self.device)
        config = GenerationConfig(
            max_new_tokens=len(given),
            min_new_tokens=len(given),
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                logits_processor=LogitsProcessorList([_Given(len(prompt), given)]),
            )
        yield from (logits[0].float().numpy(force=True) for logits in out.logits)

    def _generate(
        self, prompts: list[list[int]], new_tokens: int, beams: int, streamer: BaseStreamer | None
    ) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        config = GenerationConfig(
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            num_beams=beams,
            early_stopping=beams > 1,
            do_sample=False,
            eos_token_id=self._end_id,  # which min_new_tokens keeps out
            pad_token_id=0,
        )
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, streamer=streamer
            )
        answers: list[list[int]] = out[:, width:].tolist()
        return answers


def quantize(model: Any, device: torch.device) -> None:
    """LLM.int8() in every linear layer but the head, as ../shared/bench/peer_generate.py does it.

    One layer at a time, so that the GPU never holds the dense model.
    """
    import bitsandbytes as bnb

    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or module is head:
            continue
        biased = module.bias is not None
        layer = bnb.nn.Linear8bitLt(
            module.in_features, module.out_features, bias=biased, has_fp16_weights=False, threshold=6.0
        )
        layer.weight = bnb.nn.Int8Params(module.weight.data, requires_grad=False, has_fp16_weights=False)
        layer.bias = module.bias
        model.set_submodule(name, layer.to(device))


class _Given(LogitsProcessor):
    """Lets `generate` choose the given tokens."""

    def __init__(self, prompt_tokens: int, given: list[int]) -> None:
        self._prompt_tokens, self._given = prompt_tokens, given

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        only = torch.full_like(scores, -torch.inf)
        only[:, self._given[input_ids.shape[1] - self._prompt_tokens]] = 0
        return only


class _Streamer(BaseStreamer):
    """Hands each token on; the prompt, which comes first, is no answer."""

    def __init__(self, tokens: queue.SimpleQueue[int | BaseException | None]) -> None:
        self._tokens, self._is_prompt = tokens, True

    def put(self, value: torch.Tensor) -> None:
        if not self._is_prompt:
            self._tokens.put(int(value.item()))
        self._is_prompt = False

    def end(self) -> None:
        self._tokens.put(None)


def streamed(generate: Any) -> Iterator[int]:
    """The tokens of `generate(streamer)`, which blocks, as they come. Raises what it raises."""
    tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            generate(_Streamer(tokens))
        except BaseException as error:
            tokens.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while (token := tokens.get()) is not None:
        if isinstance(token, BaseException):
            raise token
        yield token
    thread.join()
