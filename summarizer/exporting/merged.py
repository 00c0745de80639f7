"""`--format merged`: a whole model for plain transformers, the adapter added to its weights."""

from __future__ import annotations

from summarizer.exporting.card_code import merged_code
from summarizer.exporting.measure import choose
from summarizer.exporting.merge import Merge
from summarizer.exporting.request import ExportRequest, require_room
from summarizer.exporting.steps import Words, merged_model, new_folder, opened, write_card


def write(request: ExportRequest) -> list[str]:
    """Write the model whose answers are nearest to the unmerged one's, and say how near they are."""
    loaded = opened(request)
    require_room(request.output, merged_model(loaded, Merge(loaded.adapted, 0)).nbytes(request.dtype))
    choice = choose(loaded, request.weights, request.dtype)
    with new_folder(request.output) as scratch:
        merged_model(loaded, choice.merge).write(scratch, request.dtype)
        words = Words(loaded.tokenizer, loaded.prompt)
        write_card(
            scratch, request, words, merged_code(words, loaded.spec.generation), choice.lines(), limits=[]
        )
    return choice.lines()
