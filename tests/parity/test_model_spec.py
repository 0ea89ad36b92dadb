"""How models are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from keygraph.errors import InputError
from keygraph.parity.sides.spec import ModelSpec, parse_spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("kgt.ckpt", ModelSpec(Path("kgt.ckpt"))),
        ("a@b/kgt.safetensors", ModelSpec(Path("a@b/kgt.safetensors"))),
        ("kgt.ckpt@fp16", ModelSpec(Path("kgt.ckpt"), precision="fp16")),
        ("kgt.pth@bf16@cuda:1", ModelSpec(Path("kgt.pth"), precision="bf16", device="cuda:1")),
        ("kgt.onnx@functions", ModelSpec(Path("kgt.onnx"), functions=True)),
        ("kgt.onnx@functions@cuda", ModelSpec(Path("kgt.onnx"), functions=True, device="cuda")),
        ("kgt.onnx@tensorrt", ModelSpec(Path("kgt.onnx"), provider="tensorrt")),
        ("kgt.onnx@cuda:1@tensorrt", ModelSpec(Path("kgt.onnx"), device="cuda:1", provider="tensorrt")),
        ("kgt.plan@cuda:1", ModelSpec(Path("kgt.plan"), device="cuda:1")),
    ],
)
def test_a_name_says_how_a_model_runs(
    text: str, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a@b/kgt.safetensors",):
        Path(path).parent.mkdir()
        Path(path).touch()
    assert parse_spec(text) == spec
    assert str(spec) == text


def test_words_in_another_order() -> None:
    assert str(parse_spec("kgt.onnx@tensorrt@cuda@functions")) == "kgt.onnx@functions@cuda@tensorrt"


def test_options_are_for_the_sides_that_say_nothing() -> None:
    assert str(parse_spec("kgt.onnx").by_default("cuda:1", "tensorrt")) == "kgt.onnx@cuda:1@tensorrt"
    assert str(parse_spec("kgt.onnx@cpu").by_default("cuda:1", "tensorrt")) == "kgt.onnx@cpu"
    assert str(parse_spec("kgt.ckpt@fp16").by_default("cuda:1", "tensorrt")) == "kgt.ckpt@fp16@cuda:1"
    # A provider alone is kept where it has no word of its own, but as a device's name.
    assert str(parse_spec("kgt.onnx").by_default(None, "cuda")) == "kgt.onnx@cuda"
    assert str(parse_spec("kgt.onnx").by_default("cpu", "cpu")) == "kgt.onnx@cpu"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("photo.png", "cannot tell the model type"),
        ("kgt.ckpt@int8", "a checkpoint cannot be run as 'int8'; after @ give fp32, fp16, bf16, cpu, cuda, cuda:N"),
        ("kgt.ckpt@tensorrt", "cannot be run as 'tensorrt'"),
        ("kgt.onnx@bf16", "an ONNX file cannot be run as 'bf16'"),
        ("kgt.plan@functions", "an engine cannot be run as 'functions'; after @ give cpu, cuda, cuda:N"),
        ("kgt.onnx@cuda@cpu", "specifies its device twice"),
        ("kgt.onnx@", "cannot be run as ''"),
    ],
)
def test_other_words_are_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_spec(text)


def test_a_precision_in_openvino_is_printed_as_it_is_written() -> None:
    assert str(parse_spec("kgt.onnx@openvino@bf16")) == "kgt.onnx@openvino@bf16"
