"""Speed of generation: this project beside transformers, CTranslate2, OpenVINO and llama.cpp, in turns, in one run.

    python experiments/generation_speed/measure.py --quick                      the CPU, small, under a minute
    python experiments/generation_speed/measure.py --out FOLDER                 GPT-J-6B's shapes, random weights
    python experiments/generation_speed/measure.py --model FOLDER --rows FILE   a real model on real articles
    python experiments/generation_speed/measure.py --device cuda --out FOLDER   a GPU

Every contender has the same weights and the same adapter of dim 2 on every layer: this project beside the base, the
others merged into it. Each turn is a process of its own: it loads, answers the same prompts greedily, and ends.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from materials import Conversion, Materials, convert, prepare
from prompts import build_readings, build_work
from speed_contenders import EMBEDDED, GPTJ_6B, Contender, Work
from speed_rows import Row, agreement, reading_table, row_of, table, write
from speed_turns import Found, Machine, take_turns

from summarizer.console.progress import ConsoleHandler, bar
from summarizer.errors import ConfigError
from summarizer.tracking.environment import git_state, versions

log = logging.getLogger("generation_speed")

CPU = ["ours:int8", "ours:nf4", "transformers:bf16", "ctranslate2:int8", "openvino:int8", "openvino:int4"]
KL_TOKENS = 16
"""At how many tokens of each real text answers are compared with fp32's."""
GPU = ["ours:int8", "ours:fp8", "transformers:int8", "transformers:fp16"]


def main() -> None:
    """Exit code 0; 1 where nothing of this project could be measured; 2 for a mistake."""
    arguments = parse()
    try:
        work = build_work(
            arguments.model,
            arguments.rows,
            arguments.prompt_tokens,
            arguments.prompts,
            arguments.tokens,
            arguments.articles,
            arguments.article_tokens,
            arguments.seed,
        )
        work = replace(
            work,
            beams=arguments.beams,
            batch=arguments.batch,
            readings=build_readings(
                arguments.model,
                arguments.rows,
                arguments.reading_tokens,
                arguments.reading_articles,
                arguments.seed,
            ),
            kl_tokens=arguments.kl_tokens if arguments.kl_tokens is not None else KL_TOKENS * work.is_text,
        )
        materials = prepare(arguments.model, arguments.layers, arguments.dim, arguments.seed, arguments.work)
    except (ConfigError, ValueError) as error:
        arguments.parser.error(str(error))
    machine = Machine(arguments.device, arguments.threads, arguments.peer_python)
    conversions, problems = converted(arguments.contenders, materials, machine)
    about = describe(arguments, work)
    if arguments.only_prepare:
        print(json.dumps({str(c): vars(conversion) for c, conversion in conversions.items()}, indent=2))
        sys.exit(1 if problems else 0)
    rows: list[Row] = []
    ready = [contender for contender in arguments.contenders if contender not in problems]
    with bar("turns", arguments.turns * len(ready)) as progress:
        for found in take_turns(ready, materials, work, machine, arguments.turns, progress):
            found.problems |= problems
            rows = rows_of(arguments.contenders, found, conversions, work)
            about["memory_gb_per_s"] = [round(rate / 1e9, 1) for rate in found.rates]
            if arguments.out:
                write(rows, about, arguments.prompt_tokens, arguments.out)
    print(
        f"memory, ahead of each turn: {about['memory_gb_per_s']} GB/s\n\n{table(rows, arguments.prompt_tokens)}"
    )
    if read := reading_table(rows):
        print(f"\n{read}")
    if not any(row.token_s for row in rows if row.contender.startswith("ours")):
        sys.exit(1)


def converted(
    contenders: Sequence[Contender], materials: Materials, machine: Machine
) -> tuple[dict[Contender, Conversion], dict[Contender, str]]:
    """What conversions took, and why those that failed did."""
    done: dict[Contender, Conversion] = {}
    problems: dict[Contender, str] = {}
    for contender in contenders:
        log.info("%s: preparing", contender)
        try:
            conversion = convert(
                contender,
                materials,
                machine.python(contender),
                materials.folder / f"{contender.engine}-{contender.variant}.log",
            )
        except (RuntimeError, OSError) as error:
            problems[contender] = f"not converted: {error}"
            continue
        if conversion is not None:
            done[contender] = conversion
    return done, problems


def rows_of(
    contenders: Sequence[Contender], found: Found, conversions: dict[Contender, Conversion], work: Work
) -> list[Row]:
    """In the order asked for; those whose turn is yet to come are left out."""
    rows: list[Row] = []
    for contender in contenders:
        if contender in found.problems:
            rows.append(Row(str(contender), problem=found.problems[contender]))
            continue
        if contender not in found.answers:
            continue
        row = row_of(str(contender), found.answers[contender])
        if conversion := conversions.get(contender):
            row = replace(row, conversion_s=conversion.seconds, conversion_bytes=conversion.anonymous_bytes)
        first = next((other for other in rows if other.tokens), None)
        if work.is_text and first is not None:
            same, whole = agreement(first.tokens, row.tokens)
            row = replace(row, same=same, same_answers=whole)
        rows.append(row)
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add(
        "--model",
        default=GPTJ_6B,
        help=f"{GPTJ_6B} (true shapes, random weights; the default), a folder, a hub name, or {EMBEDDED};\n"
        "random:FOLDER reads its config alone",
    )
    add("--layers", type=int, help="fewer blocks than the config says (random weights)")
    add(
        "--rows",
        help="file of articles and highlights; default: the package's sample, random tokens for random weights",
    )
    add("--contenders", nargs="+", help=f"ENGINE:VARIANT; default on a CPU {' '.join(CPU)}")
    add("--dim", type=int, default=2, help="of the adapter")
    add("--prompts", type=int, default=2, help="that each turn answers, one after the other")
    add("--prompt-tokens", type=int, default=512)
    add("--tokens", type=int, default=33, help="of each answer")
    add("--turns", type=int, default=2)
    add(
        "--articles",
        type=int,
        help="also this many at once, with beams; default 64 on a GPU, none elsewhere",
    )
    add("--article-tokens", type=int, default=128)
    add(
        "--reading-tokens",
        type=int,
        nargs="*",
        default=[],
        help="also read prompts of these lengths, for their first tokens alone",
    )
    add("--reading-articles", type=int, nargs="*", default=[1], help="so many of them at once")
    add(
        "--kl-tokens",
        type=int,
        help=f"compared with fp32's probabilities in each answer; "
        f"default {KL_TOKENS} of real texts, none of others",
    )
    add("--beams", type=int, default=4)
    add("--batch", type=int, default=8, help="articles at once, where an engine does not choose itself")
    add(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )
    add(
        "--peer-python",
        default=sys.executable,
        help="Python of the environment with ctranslate2, openvino and llama-cpp-python",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--seed", type=int, default=0)
    add("--work", type=Path, help="where models are made and kept; default outputs/generation_speed/MODEL")
    add("--only-prepare", action="store_true", help="make what contenders open, and measure nothing")
    add("--quick", action="store_true", help="the embedded model, small: to see that all works")
    add("--out", type=Path, help="folder for results.json, table.md and results.png")
    arguments = parser.parse_args()
    arguments.parser = parser
    fill_in(arguments)
    logging.basicConfig(level=logging.WARNING, handlers=[ConsoleHandler()], format="%(message)s")
    for name in ("generation_speed", "summarizer.console.progress"):
        logging.getLogger(name).setLevel(logging.INFO)
    return arguments


def fill_in(arguments: argparse.Namespace) -> None:
    """Defaults that depend on others, and contenders by name."""
    if arguments.quick:
        small = {"model": EMBEDDED, "prompt_tokens": 64, "tokens": 9, "device": "cpu"}
        vars(arguments).update(small)
        arguments.contenders = arguments.contenders or ["ours:int8", "ours:none", "transformers:fp32"]
    on_gpu = arguments.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        arguments.parser.error("--device cuda: torch sees no GPU")
    if arguments.articles is None:
        arguments.articles = 64 if on_gpu else 0
    named = arguments.contenders or (GPU if on_gpu else CPU)
    try:
        arguments.contenders = [Contender.parse(name) for name in dict.fromkeys(named)]
    except ValueError as error:
        arguments.parser.error(str(error))
    if problems := [p for each in arguments.contenders if (p := each.problem(arguments.device))]:
        arguments.parser.error("; ".join(problems))
    if arguments.tokens < 2:
        arguments.parser.error("--tokens must be at least 2: the first is timed apart")
    if arguments.work is None:
        name = "-".join(
            [
                Path(arguments.model).name.replace(":", "-"),
                *([f"{arguments.layers}-layers"] if arguments.layers else []),
            ]
        )
        arguments.work = Path("outputs/generation_speed") / name


def describe(arguments: argparse.Namespace, work: Work) -> dict[str, Any]:
    """What a reader must know beside the numbers. No path of this machine."""
    state = git_state()
    model = Path(arguments.model.removeprefix("random:"))
    return {
        "model": model.name if model.is_dir() else arguments.model,
        "prompts": f"{len(work.prompts)} of {arguments.prompt_tokens} tokens, {arguments.tokens} new ones each, "
        + ("real text" if work.is_text else "random tokens"),
        "articles": f"{len(work.articles)}, beam {work.beams}, {work.article_tokens} new tokens"
        if work.articles
        else "none",
        "read for first tokens": f"{len(work.readings)} batches" if work.readings else "none",
        "compared with fp32": f"{work.kl_tokens} tokens of each prompt",
        "adapter": f"dim {arguments.dim} on every linear layer, head and embedding",
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine(),
        "threads": arguments.threads,
        "commit": None if state is None else state.commit + (" and changes" if state.dirty else ""),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items() if version),
        "turns": arguments.turns,
    }


if __name__ == "__main__":
    main()
