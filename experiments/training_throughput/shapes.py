"""In how many shapes the batches of an epoch come, as they are and padded to few, and what the padding adds.

    python experiments/training_throughput/shapes.py [--rows FILE --model FOLDER] [--batches 2 4 --lengths 256 1024]

Nothing is computed: batches are laid out as a step would hand them to a model whose examples can be packed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice

from workload import EMBEDDED, Point, Setting, Workload, compose_spec

from summarizer.data.batches import SIZES_PER_DOUBLING, Batch, collate
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer
from summarizer.training.step import Microbatches


def shape(batch: Batch) -> tuple[int, ...]:
    """What a recorded graph depends on; the head and the loss are not recorded."""
    return (*batch.input_ids.shape, batch.attention_mask.shape[-1])


def epoch_batches(workload: Workload, *, few_shapes: bool) -> Iterator[Batch]:
    """One epoch of one trial."""
    steps = workload.rows.steps_per_epoch(workload.spec.trainer.batch_size)
    for examples in islice(workload.stream(), steps):
        buckets = Microbatches(None, None, few_shapes).buckets(1, len(examples), workload.prompt.max_tokens)
        yield collate([examples], workload.prompt, packed=True, buckets=buckets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--rows", help="file of articles and highlights; default: the package's sample")
    add("--model", default=EMBEDDED, help="whose tokenizer counts; default the embedded one")
    add("--batches", type=int, nargs="+", default=[2, 4])
    add("--lengths", type=int, nargs="+", default=[256, 512, 1024], help="the most tokens of a row")
    arguments = parser.parse_args()
    setting = Setting(arguments.model, None, arguments.rows, 1, "cpu")
    print(f"{SIZES_PER_DOUBLING} sizes for each doubling\n")
    print("| batch | steps | shapes as they are | padded to few | head's lengths, likewise | tokens added |")
    print("|---|---|---|---|---|---|")
    for size in arguments.batches:
        for length in arguments.lengths:
            print(line(setting, Point(size, length, 2)))


def rows_of(setting: Setting, point: Point) -> Workload:
    """Real rows, all that there are: of the file, or the sample."""
    spec = compose_spec(setting, point, ["data.rows.train=null"])
    prompt = build_prompt(spec.prompt, load_tokenizer(model_folder(spec.model, weights=False)))
    return Workload(spec, prompt, build_split(spec.data, "train", prompt))


def line(setting: Setting, point: Point) -> str:
    workload = rows_of(setting, point)
    plain, padded = (list(epoch_batches(workload, few_shapes=few)) for few in (False, True))
    tokens, more_tokens = (sum(batch.input_ids.numel() for batch in own) for own in (plain, padded))
    shapes, few = (len({shape(batch) for batch in own}) for own in (plain, padded))
    heads, few_heads = (len({batch.positions.shape for batch in own}) for own in (plain, padded))
    added = 100 * (more_tokens / tokens - 1)
    return (
        f"| {point.batch} x {point.length} | {len(plain)} | {shapes} | {few} | {heads} -> {few_heads} "
        f"| {added:.1f} % |"
    )


if __name__ == "__main__":
    main()
