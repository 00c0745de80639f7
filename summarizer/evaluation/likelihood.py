"""How much an article raises the likelihood of a summary, by the frozen base model itself: no reference is needed.

A summary of its article is likely once the article was read, and much less likely before. A fluent sentence about
something else is as likely either way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from summarizer.data.order import EncodedRow
from summarizer.evaluation.evaluator import Evaluator
from summarizer.evaluation.metrics import RowShares
from summarizer.evaluation.record import GAIN, HARIM

RISK_WEIGHT = 7.0
"""Lambda of the paper."""


def likelihood_scores(
    evaluator: Evaluator, rows: Sequence[EncodedRow], summaries: Sequence[str]
) -> dict[str, RowShares]:
    """Each summary's article gain and HaRiM+ by the base model, in two passes of the loss, with and without it.

    rows: the articles, in the summaries' order; their own targets are not looked at.
    article gain: mean over the summary's tokens and its end token of log p(token | article) - log p(token), where
        p(token) has read the prompt with no article in it.
    HaRiM+: mean log p(token | article) + 7 mean(1 - (1 - p) (1 - (p - p_without)) / 2), as its authors compute it.
    Of a summary that takes more than half of prompt.max_tokens only that half is scored, so that an article fits.
    Raises ValueError if the two differ in length.
    Source: Son et al. 2022 (HaRiM+, arXiv:2211.12118) and the authors' harim_plus, in which a trained summarizer
    takes the base model's place.
    """
    if len(rows) != len(summaries):
        raise ValueError(f"{len(summaries)} summaries for {len(rows)} articles")
    prompt = evaluator.prompt
    most = max(prompt.room(0) // 2, 1)
    targets = [prompt.encode_target(summary)[:most] for summary in summaries]
    with_article = [
        EncodedRow(row.id, row.article_ids, target) for row, target in zip(rows, targets, strict=True)
    ]
    without = [EncodedRow(row.id, [], target) for row, target in zip(rows, targets, strict=True)]
    gains, harims = np.empty(len(rows)), np.empty(len(rows))
    losses = zip(evaluator.token_losses(with_article), evaluator.token_losses(without), strict=True)
    for place, (informed, blind) in enumerate(losses):
        read, unread = -np.array(informed), -np.array(blind)
        p, p_without = np.exp(read), np.exp(unread)
        gains[place] = (read - unread).mean()
        safety = 1 - (1 - p) * (1 - (p - p_without)) / 2
        harims[place] = read.mean() + RISK_WEIGHT * safety.mean()
    return {GAIN: RowShares.of_rows(gains), HARIM: RowShares.of_rows(harims)}
