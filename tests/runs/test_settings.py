from __future__ import annotations

import pytest

from summarizer.config.schema import QuantizationConfig
from summarizer.runs.settings import differing, flat, from_overrides, names
from summarizer.tracking.names import run_name


def test_a_config_is_flat_and_without_secrets() -> None:
    config = flat(
        {
            "adapter": {"dim": 2, "targets": ["linear", "head"]},
            "optimizer": {"lr": 1e-4, "betas": [0.9, 1.0]},
            "trainer": {"compile": False, "epochs": 3.0, "limit": float("nan")},
            "data": {"token": "abc", "path": "https://me:pw@host/x", "none": None, "empty": {}},
        }
    )
    assert {key: value.text for key, value in config.items()} == {
        "adapter.dim": "2",
        "adapter.targets": "[linear, head]",
        "optimizer.lr": "0.0001",
        "optimizer.betas": "[0.9, 1]",
        "trainer.compile": "false",
        "trainer.epochs": "3",
        "trainer.limit": "nan",
        "data.token": "***",
        "data.path": "***",
        "data.none": "null",
        "data.empty": "{}",
    }
    assert config["optimizer.lr"].number == 1e-4


def test_a_prompt_of_plain_text_is_called_so_beside_a_chat() -> None:
    configs = [flat({"prompt": {"kind": "chat"}}), flat({"prompt": {"template": "{article}"}})]
    config_keys = differing(configs, [("prompt=chat",), ()])
    assert "prompt.kind" in config_keys
    found = names(["a", "b"], [[0, 1]], configs, [("prompt=chat",), ()])
    assert [name.split()[0] for name in found] == ["kind=chat", "kind=text"]
    assert "prompt.kind" not in flat({"adapter": {"dim": 2}})


def test_a_run_of_before_the_key_has_its_embedding_in_the_format_of_the_rest() -> None:
    before, now = (
        {"quantization": {"format": "nf4"}},
        {"quantization": {"format": "nf4", "embedding_format": None}},
    )
    assert differing([flat(before), flat(now)], [(), ()]) == ()
    now["quantization"]["embedding_format"] = "int8"
    assert differing([flat(before), flat(now)], [(), ()]) == ("quantization.embedding_format",)
    assert QuantizationConfig(format="nf4", cache=True).name == "nf4"
    same = QuantizationConfig(format="nf4", cache=True, embedding_format="nf4")
    assert same == QuantizationConfig(format="nf4", cache=True)
    assert QuantizationConfig(format="nf4", cache=True, embedding_format="int8").name == "nf4+int8"


def test_json_numbers_are_those_of_yaml() -> None:
    yaml, json = {"a": {"x": 1.0, "y": [1.0, 0.5]}}, {"a": {"x": 1, "y": [1, 0.5]}}
    assert differing([flat(yaml), flat(json)], [(), ()]) == ()


def test_keys_that_differ_are_in_the_order_of_the_commands() -> None:
    one = flat({"a": {"x": 1, "y": 1, "z": 1}, "b": {"u": 1, "v": 2}, "tracking": {"name": "n"}})
    two = flat({"a": {"x": 2, "y": 2, "z": 1}, "b": {"u": 2, "v": 3}, "tracking": {"name": "m"}})
    overrides = [("b=other", "+a.y=1"), ("a.z=1", "a.y=2")]
    assert differing([one, two], overrides) == ("a.y", "b.u", "b.v", "a.x")


def test_of_a_run_without_a_config_only_overrides_are_known() -> None:
    whole = flat({"a": {"x": 1, "y": True, "z": 3}})
    known = from_overrides(["a.x=2", "++a.y=true", "~a.q"])
    assert differing([whole, known], [("a.x=1",), ("a.x=2", "++a.y=true", "~a.q")]) == ("a.x",)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["out/a/0", "out/b/0", "out/b/1"], ["a/0", "b/0", "1"]),
        (["run", "deep/run"], ["run", "deep/run"]),
    ],
)
def test_runs_without_settings_are_named_by_the_ends_of_their_paths(
    sources: list[str], expected: list[str]
) -> None:
    configs = [flat({"a": 1}) for _ in sources]
    assert names(sources, [list(range(len(sources)))], configs, [()] * len(sources)) == expected


def test_names_are_of_what_differs_within_their_group() -> None:
    configs = [flat({"a": {"x": x, "y": y}}) for x, y in ((1, 1), (2, 1), (1, 9), (2, 9), (3, 9))]
    found = names(["0", "1", "2", "3", "4"], [[0, 1], [2, 3, 4]], configs, [("a.x=1",)] * 5)
    assert found == ["x=1 (0)", "x=2 (1)", "x=1 (2)", "x=2 (3)", "x=3"]


def test_a_run_alone_is_called_as_wandb_calls_it() -> None:
    def name(*overrides: str, **tracking: str) -> str:
        (found,) = names(["day/12-30"], [[0]], [flat({"tracking": tracking})], [overrides])
        return found

    assert (
        name("adapter.dim=2", "optimizer.lr=1e-4")
        == "dim=2 lr=1e-4"
        == run_name(["adapter.dim=2", "optimizer.lr=1e-4"])
    )
    assert name("adapter.dim=2", name="mine") == "mine"
    assert name("adapter.dim=2", "data.train=/home/me/rows.jsonl") == "dim=2"
    assert name("adapter.dim=2", f"prompt.template={'w' * 50}") == "dim=2"
    assert name("data.api_key=verysecret") == "api_key=***"
    assert name() == name("tracking.name=null") == "12-30"
    pair = names(["a/0", "b/1"], [[0], [1]], [flat({})] * 2, [("a.x=1",), ("a.x=1",)])
    assert pair == ["x=1 (0)", "x=1 (1)"]


def test_long_settings_are_no_name() -> None:
    configs = [flat({"a": {"x": "w" * 50 + end}}) for end in "ab"]
    assert names(["one", "two"], [[0, 1]], configs, [(), ()]) == ["one", "two"]


def test_what_tells_most_runs_apart_comes_first() -> None:
    rows = [(1, "s", 0, d, r) for d in (2, 4) for r in (1, 2)] + [
        (1, "s", 1, 2, 1),
        (1, "t", 1, 2, 1),
        (2, "t", 2, 2, 1),
    ]
    configs = [
        flat({"a": dict(zip(("one", "half", "thirds", "dim", "lr"), row, strict=True))}) for row in rows
    ]
    overrides = [("a.one=1", "a.lr=1", "a.dim=1")] * len(rows)
    assert differing(configs, overrides) == ("a.thirds", "a.lr", "a.dim", "a.half", "a.one")
    swept = {"a.lr", "a.dim"}
    assert differing(configs, overrides, swept) == ("a.lr", "a.dim", "a.thirds", "a.half", "a.one")


def test_long_settings_leave_room_for_those_that_were_swept() -> None:
    sweep = [{"dim": d, "lr": r, "path": "w" * 30, "seed": 0} for d in (2, 4) for r in (1e-4, 1e-3)]
    single = [{"dim": 8, "lr": 3e-4, "path": end * 30, "seed": 1} for end in "xy"]
    configs = [flat({"a": values}) for values in [*sweep, *single]]
    sources = ["day/sweep/0", "day/sweep/1", "day/sweep/2", "day/sweep/3", "day/one", "day/two"]
    found = names(sources, [list(range(6))], configs, [()] * 6, {"a.dim", "a.lr"})
    assert found == [
        *("dim=2 lr=0.0001", "dim=2 lr=0.001", "dim=4 lr=0.0001", "dim=4 lr=0.001"),
        *("dim=8 lr=0.0003 (one)", "dim=8 lr=0.0003 (two)"),
    ]


def test_a_class_is_named_without_its_module() -> None:
    configs = [flat({"optimizer": {"_target_": f"torch.optim.{name}"}}) for name in ("AdamW", "SGD")]
    assert names(["0", "1"], [[0, 1]], configs, [(), ()]) == ["optimizer=AdamW", "optimizer=SGD"]
