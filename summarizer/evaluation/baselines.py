"""What a summarizer has to beat."""

from __future__ import annotations

import random

from summarizer.evaluation.sentences import split_sentences


def lead(article: str, sentences: int = 3) -> str:
    """The article's first sentences, one per line: Lead-3, the usual baseline for news.

    Nothing is taken out: CNN's "(CNN)" or "WASHINGTON (CNN) --" stays part of the first sentence, and Daily
    Mail's "By ." counts as a sentence. A shorter article is returned whole.
    Raises ValueError if sentences is below 1.
    Source: the baseline of See et al. 2017 (arXiv:1704.04368), section 5.
    """
    if sentences < 1:
        raise ValueError(f"a lead has at least one sentence, not {sentences}")
    return "\n".join(split_sentences(article)[:sentences])


def random_sentences(article: str, seed: int, row_id: str, sentences: int = 3) -> str:
    """Sentences of the article at random, without repetition, in its order, one per line: Random-3.

    They depend on the seed, the row's id and the article alone, not on which other rows are scored or in which
    order. A shorter article is returned whole.
    Raises ValueError if sentences is below 1.
    """
    if sentences < 1:
        raise ValueError(f"a summary has at least one sentence, not {sentences}")
    split = split_sentences(article)
    generator = random.Random(f"{seed}:{row_id}")
    chosen = generator.sample(range(len(split)), min(sentences, len(split)))
    return "\n".join(split[index] for index in sorted(chosen))
